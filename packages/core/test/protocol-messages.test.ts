import fc from 'fast-check'
import { expect, test } from 'vitest'
import { isKvxError, type KvxError } from '@kvx/contract'
import { decodeFrame, encodeMessage } from '../src/control/codec.ts'
import {
  messageKinds,
  packPages,
  parseMessage,
  unpackPages,
  type Message,
  type MessageKind,
  type MessageOf,
} from '../src/protocol/index.ts'
import { overTheWire, samples } from './protocol/fixtures.ts'

/** Byte strings come back as views of the frame; compared as the bytes they hold. */
function plain(value: unknown): unknown {
  if (value instanceof Uint8Array) return Uint8Array.from(value)
  if (Array.isArray(value)) return value.map(plain)
  if (typeof value === 'object' && value !== null) {
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, plain(inner)]))
  }
  return value
}

function refusal(value: unknown): KvxError {
  try {
    parseMessage(value)
  } catch (error) {
    if (isKvxError(error)) return error
    throw error
  }
  throw new Error('it was taken for a message')
}

test.each(messageKinds)('a %s comes through codec and schema as it was sent', (kind) => {
  expect(plain(overTheWire(samples[kind]))).toEqual(plain(samples[kind]))
})

test.each(messageKinds)('a %s without its optional fields is a message too', (kind) => {
  const optional = ['ep', 'phase', 'peer', 'rank', 'pages', 'state', 'outcome']
  const required: Partial<Record<MessageKind, readonly string[]>> = {
    hello: ['rank'],
    welcome: ['rank'],
    accept: ['state'],
    status: ['state'],
    pages: ['pages'],
  }
  const bare = Object.fromEntries(
    Object.entries(samples[kind]).filter(
      ([name]) =>
        !optional.includes(name) ||
        (required[kind] ?? []).includes(name) ||
        (name === 'ep' && kind !== 'refuse'),
    ),
  )
  expect(plain(overTheWire(bare))).toEqual(plain(bare))
})

test('rooms of 64 bits arrive exactly, whatever their size', () => {
  fc.assert(
    fc.property(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), (room) => {
      expect((overTheWire({ ...samples.reserve, room }) as { room: bigint }).room).toBe(room)
    }),
    {
      examples: [
        [0n],
        [1n],
        [2n ** 32n],
        [2n ** 53n],
        [2n ** 53n + 1n],
        [2n ** 63n - 1n],
        [2n ** 63n],
        [2n ** 64n - 1n],
      ],
    },
  )
})

test('page lists arrive exactly, wherever their bytes lie in the frame', () => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }), { maxLength: 50 }),
      fc.string({ maxLength: 5 }),
      (pages, pad) => {
        const arrived = overTheWire({
          ...samples.pages,
          pages: { [`x${pad}`]: new Uint8Array(4), ...packPages({ kv: Int32Array.from(pages) }) },
        }) as MessageOf<'pages'>
        expect([...(unpackPages(arrived.pages).kv ?? [])]).toEqual(pages)
      },
    ),
  )
})

test('a field that this version does not know is dropped', () => {
  expect(overTheWire({ ...samples.ping, novelty: 1 })).toEqual(samples.ping)
})

test.each([
  ['a later one', 3],
  ['an earlier one', 1],
  ['a text', '2'],
  ['none', undefined],
  ['a map', {}],
])('another protocol version is refused as such, whatever follows: %s', (_name, v) => {
  expect(refusal({ ...samples.hello, v }).code).toBe('ERR_KVX_VERSION_MISMATCH')
  expect(refusal({ v, k: 'from the future', more: [1, 2] }).code).toBe('ERR_KVX_VERSION_MISMATCH')
})

test.each([
  ['unknown'],
  ['constructor'],
  ['__proto__'],
  ['toString'],
  [''],
  [7],
  [undefined],
  [null],
  [{}],
])('an unknown kind of message is refused: %s', (k) => {
  expect(refusal({ ...samples.ping, k }).code).toBe('ERR_KVX_PROTOCOL')
})

test.each([[null], [undefined], [7], ['hello'], [[]], [true], [1n], [new Uint8Array(3)]])(
  'what is no map is no message: %s',
  (value) => {
    expect(['ERR_KVX_PROTOCOL', 'ERR_KVX_VERSION_MISMATCH']).toContain(refusal(value).code)
  },
)

const everyField = messageKinds.flatMap((kind) =>
  Object.keys(samples[kind]).map((field) => [kind, field] as const),
)

test.each(everyField.filter(([, field]) => field !== 'v'))(
  'a %s whose %s is of another type is refused',
  (kind, field) => {
    for (const value of [Symbol.iterator, () => 0, Number.NaN]) {
      expect(refusal({ ...samples[kind], [field]: value }).code).toBe('ERR_KVX_PROTOCOL')
    }
  },
)

test.each([
  ['an incarnation that is no 32 hex digits', { ...samples.ping, from: 'ABCDEF'.repeat(5) + 'ab' }],
  [
    'an incarnation with a line break behind it',
    { ...samples.ping, from: `${samples.ping.from}\n` },
  ],
  ['epoch 0', { ...samples.ack, ep: 0 }],
  ['a negative epoch', { ...samples.ack, ep: -1 }],
  ['a broken epoch', { ...samples.ack, ep: 1.5 }],
  ['an epoch beyond 2^53', { ...samples.ack, ep: 2 ** 53 }],
  ['a room beyond 64 bits', { ...samples.reserve, room: 2n ** 64n }],
  ['a negative room', { ...samples.reserve, room: -1n }],
  ['a room that is a number', { ...samples.reserve, room: 7 }],
  ['a prompt without tokens', { ...samples.reserve, tokens: 0 }],
  ['a digest of 15 bytes', { ...samples.reserve, digest: new Uint8Array(15) }],
  ['a page list of 6 bytes', { ...samples.reserve, pages: { kv: new Uint8Array(6) } }],
  ['a page list that is no bytes', { ...samples.reserve, pages: { kv: [1, 2] } }],
  ['pages without a component', { ...samples.reserve, pages: new Uint8Array(8) }],
  [
    'digests that are no bytes',
    {
      ...samples.complete,
      manifest: { ...samples.complete.manifest, digests: { kv: 'none' } },
    },
  ],
  ['an unknown state', { ...samples.status, state: 'fine' }],
  ['an outcome of another kind', { ...samples.status, outcome: samples.ack }],
  ['an unknown error code', { ...samples.abort, code: 'ERR_KVX_FUN' }],
  ['an error code of Object.prototype', { ...samples.abort, code: 'constructor' }],
  ['a text of 2,001 characters', { ...samples.abort, text: 'x'.repeat(2_001) }],
  ['an instance name of 201 characters', { ...samples.hello, instance: 'x'.repeat(201) }],
  [
    'an engine address of 64 KiB and a byte',
    { ...samples.hello, engine: { ...samples.hello.engine, address: new Uint8Array(65_537) } },
  ],
  [
    '1,025 regions',
    {
      ...samples.hello,
      engine: {
        ...samples.hello.engine,
        regions: Array.from({ length: 1_025 }, () => new Uint8Array(1)),
      },
    },
  ],
  ['a hello that says one version only', { ...samples.hello, speaks: [2] }],
  ['a hello that does not say what it speaks', { ...samples.hello, speaks: undefined }],
  ['a negative version', { ...samples.hello, speaks: [-1, 2] }],
  [
    'a negative number of bytes',
    {
      ...samples.complete,
      manifest: { ...samples.complete.manifest, parts: { kv: { units: 1, bytes: -8 } } },
    },
  ],
  [
    'a manifest of broken units',
    {
      ...samples.complete,
      manifest: { ...samples.complete.manifest, parts: { kv: { units: 1.5, bytes: 8 } } },
    },
  ],
])('%s is refused', (_name, value) => {
  expect(refusal(value).code).toBe('ERR_KVX_PROTOCOL')
})

const [kvShape, mambaShape] = samples.hello.shape.components
const [kvRun] = kvShape!.tensors
const [placeRun] = samples.hello.place.tensors
const withShape = (change: object) => ({
  ...samples.hello,
  shape: { ...samples.hello.shape, ...change },
})
const withRun = (change: object) =>
  withShape({ components: [{ ...kvShape, tensors: [{ ...kvRun, ...change }] }, mambaShape] })
const withPlace = (change: object) => ({
  ...samples.hello,
  place: { ...samples.hello.place, ...change },
})
const withPlaceRun = (change: object) => withPlace({ tensors: [{ ...placeRun, ...change }] })

/** Each would be very many tensors, or none, if it were unpacked. */
const hostileCaches: [string, object][] = [
  ['a model of 65,537 layers', withShape({ layers: 65_537 })],
  ['a model of no layers', withShape({ layers: 0 })],
  ['a setting of 201 characters', withShape({ settings: { rope: 'x'.repeat(201) } })],
  [
    '65 settings',
    withShape({
      settings: Object.fromEntries(Array.from({ length: 65 }, (_, i) => [`s${i}`, '1'])),
    }),
  ],
  ['a model without a name', withShape({ model: '' })],
  ['a component without a name', withShape({ components: [{ ...kvShape, name: '' }] })],
  [
    'a component that is addressed otherwise',
    withShape({ components: [{ ...kvShape, addressed: 'constructor' }] }),
  ],
  ['a window of no token', withShape({ components: [{ ...kvShape, window: 0 }] })],
  ['a run of 2^53 tensors', withRun({ count: 2 ** 53 })],
  ['a run of a billion tensors', withRun({ count: 1_000_000_000 })],
  ['a run of infinitely many tensors', withRun({ count: Infinity })],
  ['a run of no tensor', withRun({ count: 0 })],
  ['a run of minus one tensor', withRun({ count: -1 })],
  [
    'runs of 65,537 tensors together',
    withShape({
      components: [{ ...kvShape, tensors: [kvRun, { ...kvRun, count: 65_536 }] }, mambaShape],
    }),
  ],
  [
    'components of 65,537 tensors together',
    withShape({
      components: [
        { ...kvShape, tensors: [{ ...kvRun, count: 32_768 }] },
        { ...mambaShape, tensors: [{ ...kvRun, count: 32_769 }] },
      ],
    }),
  ],
  ['a broken step', withRun({ step: [0.5] })],
  ['a step that is no number', withRun({ step: ['1'] })],
  ['two numbers where one grows', withRun({ first: [0, 0], step: [1, 1] })],
  ['no number that grows', withRun({ first: [], step: [] })],
  ['a negative first layer', withRun({ first: [-1] })],
  ['units that are none', withRun({ value: { ...kvRun?.value, units: 0 } })],
  ['bytes beyond 2^53', withRun({ value: { ...kvRun?.value, unitBytes: 2 ** 53 } })],
  ['a tensor without its base', withPlaceRun({ first: [0, 0] })],
  ['a place of 65,537 tensors', withPlaceRun({ count: 65_537 })],
  ['a place of minus one tensor', withPlaceRun({ count: -1 })],
  ['a negative base', withPlaceRun({ first: [0, 0, -8] })],
  ['an unknown order', withPlaceRun({ value: { ...placeRun?.value, order: 'DHN' } })],
  ['pages beyond 2^31', withPlace({ components: { kv: { pageTokens: 4, pages: 2 ** 31 } } })],
  ['no pages', withPlace({ components: { kv: { pageTokens: 4, pages: 0 } } })],
  ['pages of no token', withPlace({ components: { kv: { pageTokens: 0, pages: 1 } } })],
]
test.each(hostileCaches)(
  'a hello with %s is refused before anything is unpacked',
  (_name, value) => {
    expect(refusal(value).code).toBe('ERR_KVX_PROTOCOL')
  },
)

test('a refusal names the field, and repeats nothing of what the peer sent but a short scalar', () => {
  const secret = 'a'.repeat(32)
  expect(refusal({ ...samples.hello, session: `${secret}!` }).message).toBe(
    "A 'hello' message does not fit at 'session'.",
  )
  expect(refusal({ ...samples.ping, k: 'x'.repeat(10_000) }).message.length).toBeLessThan(200)
})

test('a frame with anything changed is a message or is refused with one of two codes', () => {
  const anything = fc.oneof(
    fc.anything({ withBigInt: true, withTypedArray: true, maxDepth: 2 }),
    fc.constant(undefined),
  )
  const kinds = fc.constantFrom(...messageKinds)
  fc.assert(
    fc.property(kinds, fc.nat(40), anything, fc.boolean(), (kind, at, value, inside) => {
      const changed = structuredClone(samples[kind]) as Record<string, unknown>
      const fields = Object.keys(changed)
      const field = fields[at % fields.length] ?? ''
      const inner = changed[field]
      if (inside && typeof inner === 'object' && inner !== null && !ArrayBuffer.isView(inner)) {
        const names = Object.keys(inner)
        ;(inner as Record<string, unknown>)[names[at % names.length] ?? 'x'] = value
      } else {
        changed[field] = value
      }
      expectMessageOrRefusal(() => parseMessage(changed))
    }),
    { numRuns: 1_500 },
  )
})

test('frames of valid messages with bytes changed are messages or refused, by codec or schema', () => {
  const frames = messageKinds.map((kind) =>
    encodeMessage(samples[kind] as Record<string, unknown>).slice(),
  )
  fc.assert(
    fc.property(
      fc.nat(frames.length - 1),
      fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 4 }),
      (which, changes) => {
        const frame = frames[which]?.slice() ?? new Uint8Array()
        for (const [at, value] of changes) frame[at % frame.length] = value
        expectMessageOrRefusal(() => {
          const [first] = decodeFrame(frame)
          return parseMessage(first)
        })
      },
    ),
    { numRuns: 3_000 },
  )
})

function expectMessageOrRefusal(parse: () => Message): void {
  let message: Message
  try {
    message = parse()
  } catch (error) {
    const code = isKvxError(error) ? error.code : error
    expect(['ERR_KVX_PROTOCOL', 'ERR_KVX_VERSION_MISMATCH']).toContain(code)
    return
  }
  expect(messageKinds).toContain(message.k)
}
