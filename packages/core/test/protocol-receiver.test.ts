import { describe, expect, test } from 'vitest'
import { KvxError } from '@kvx/contract'
import {
  makeRank,
  protocolVersion,
  receiveObjection,
  unpackPages,
  type DecodeEvent,
  type MessageOf,
} from '../src/protocol/index.ts'
import {
  deadlines,
  digest,
  int32,
  kvBytes,
  layers,
  limits,
  name128,
  onWire,
  smallCache,
  unitsOf,
} from './protocol/fixtures.ts'
import type { CacheShape } from '../src/shape/index.ts'
import { bootstrap, completeBody, DecodeSide, prefiller } from './protocol/decode-side.ts'
import { opaqueParts } from './protocol/plain.ts'

const p1 = prefiller(1)
const failed = {
  k: 'failed',
  ep: 1,
  code: 'ERR_KVX_TRANSFER_FAILED',
  text: 'the wire broke',
  phase: 'transfer',
  rank: 'tp0/pp0/cp0/dp0',
}
const refuse = (code: string) => ({ k: 'refuse', ep: 1, code, text: 'because' })
const status = (state: string, more: object = {}) => ({
  k: 'status',
  ep: 1,
  state,
  units: 0,
  ...more,
})

const open = () => new DecodeSide().open(p1)
const reserving = () => open().reserve()
const parked = () => reserving().message(p1, { k: 'accept', ep: 1, state: 'parked' })
const receiving = () => parked().message(p1, { k: 'accept', ep: 1, state: 'paired' })
const withoutPages = () => open().reserveLate().message(p1, { k: 'accept', ep: 1, state: 'paired' })

/** A side whose request 1 is in the named phase. */
const places = {
  resolving: () => new DecodeSide().receive(),
  greeting: () => new DecodeSide().receive().read(p1).up(p1),
  open,
  reserving,
  parked,
  receiving,
  'receiving without pages': withoutPages,
  'asked for pages': () => withoutPages().message(p1, { k: 'ready', ep: 1 }),
  'aborted before an answer': () => reserving().hostAbort(),
  aborted: () => receiving().hostAbort(),
  failed: () => receiving().message(p1, failed),
  success: () => receiving().complete(p1),
} satisfies Record<string, () => DecodeSide>

const events = {
  'the bootstrap answers': (d: DecodeSide) => d.read(p1),
  'the bootstrap does not answer': (d: DecodeSide) => d.sourceFailed(),
  'the token is another': (d: DecodeSide) => d.sourceFailed('ERR_KVX_UNAUTHORIZED'),
  welcome: (d: DecodeSide) => d.welcome(p1),
  'hello is refused': (d: DecodeSide) =>
    d.message(p1, { k: 'refuse', code: 'ERR_KVX_LAYOUT_MISMATCH', text: 'no' }),
  'the host reserves': (d: DecodeSide) => d.reserve(),
  'the host reserves without pages': (d: DecodeSide) => d.reserveLate(),
  'the host provides pages': (d: DecodeSide) => d.provide(),
  'the host aborts': (d: DecodeSide) => d.hostAbort(),
  'accept(parked)': (d: DecodeSide) => d.message(p1, { k: 'accept', ep: 1, state: 'parked' }),
  'accept(paired)': (d: DecodeSide) => d.message(p1, { k: 'accept', ep: 1, state: 'paired' }),
  'refuse(OVER_LIMIT)': (d: DecodeSide) => d.message(p1, refuse('ERR_KVX_OVER_LIMIT')),
  'refuse(STALE)': (d: DecodeSide) => d.message(p1, refuse('ERR_KVX_STALE')),
  ready: (d: DecodeSide) => d.message(p1, { k: 'ready', ep: 1 }),
  progress: (d: DecodeSide) => d.message(p1, { k: 'progress', ep: 1, units: unitsOf(2) }),
  complete: (d: DecodeSide) => d.complete(p1),
  'complete with a page too few': (d: DecodeSide) => d.complete(p1, 1, { pages: 2 }),
  failed: (d: DecodeSide) => d.message(p1, failed),
  drained: (d: DecodeSide) => d.message(p1, { k: 'drained', ep: 1 }),
  'failed and drained': (d: DecodeSide) =>
    d.message(p1, failed).message(p1, { k: 'drained', ep: 1 }),
  'status(parked)': (d: DecodeSide) => d.message(p1, status('parked')),
  'status(paired)': (d: DecodeSide) => d.message(p1, status('paired')),
  'status(complete)': (d: DecodeSide) =>
    d.message(
      p1,
      status('complete', {
        outcome: {
          v: protocolVersion,
          from: p1.incarnation,
          to: d.state.self.incarnation,
          gen: d.state.engine.generation,
          ...completeBody(),
        },
      }),
    ),
  'status(failed)': (d: DecodeSide) =>
    d.message(
      p1,
      status('failed', {
        outcome: {
          v: protocolVersion,
          from: p1.incarnation,
          to: d.state.self.incarnation,
          gen: d.state.engine.generation,
          ...failed,
        },
      }),
    ),
  'status(over)': (d: DecodeSide) => d.message(p1, status('over')),
  'the connection is lost': (d: DecodeSide) => d.down(p1),
  'the connection is made again': (d: DecodeSide) => d.reconnect(p1),
  'the connection is refused': (d: DecodeSide) =>
    d.step({
      type: 'link.down',
      endpoint: p1.endpoint,
      error: new KvxError('ERR_KVX_UNAUTHORIZED', 'another token'),
    }),
  'prefill is silent for too long': (d: DecodeSide) => d.tick(deadlines.peerSilent + 1),
  'the engine of prefill is gone': (d: DecodeSide) =>
    d.step({ type: 'peer.gone', generation: p1.writer, reason: 'Its process has exited.' }),
  'the engine of another is gone': (d: DecodeSide) =>
    d.step({ type: 'peer.gone', generation: 'e'.repeat(32), reason: 'Its process has exited.' }),
  'prefill is silent for half as long': (d: DecodeSide) => d.tick(deadlines.peerSilent / 2),
  'prefill was replaced': (d: DecodeSide) => d.read(prefiller(2)),
  'the hello deadline passes': (d: DecodeSide) => d.pass(deadlines.hello),
  'the reserve deadline passes': (d: DecodeSide) => d.pass(deadlines.reserve, p1),
  'the pairing deadline passes': (d: DecodeSide) => d.pass(deadlines.pairing, p1),
  'the progress deadline passes': (d: DecodeSide) => d.pass(deadlines.progress, p1),
} satisfies Record<string, (d: DecodeSide) => DecodeSide>

type Place = keyof typeof places
type Event = keyof typeof events
/** Present phase, event, next phase, messages sent, host told. */
type Row = readonly [Place, Event, string, readonly string[], readonly string[]]

const gone = 'gone'
const rows: readonly Row[] = [
  ['resolving', 'the bootstrap answers', 'resolving', [], []],
  ['resolving', 'the bootstrap does not answer', 'resolving', [], []],
  ['resolving', 'the token is another', gone, [], ['failed(UNAUTHORIZED)', 'settled']],
  ['resolving', 'the host reserves', 'resolving', [], []],
  ['resolving', 'the host aborts', gone, [], ['failed(ABORTED)', 'settled']],
  [
    'resolving',
    'the hello deadline passes',
    gone,
    [],
    ['failed(BOOTSTRAP_UNREACHABLE)', 'settled'],
  ],

  ['greeting', 'welcome', 'open', [], []],
  ['greeting', 'hello is refused', gone, [], ['failed(LAYOUT_MISMATCH)', 'settled']],
  ['greeting', 'the host aborts', gone, [], ['failed(ABORTED)', 'settled']],
  ['greeting', 'the connection is lost', 'resolving', [], []],
  ['greeting', 'the connection is refused', gone, [], ['failed(UNAUTHORIZED)', 'settled']],
  ['greeting', 'prefill was replaced', 'resolving', [], []],
  ['greeting', 'the hello deadline passes', gone, [], ['failed(TIMEOUT)', 'settled']],

  ['open', 'the host reserves', 'reserving', ['reserve'], []],
  ['open', 'the host reserves without pages', 'reserving', ['reserve'], []],
  ['open', 'the host aborts', gone, [], ['failed(ABORTED)', 'settled']],
  ['open', 'the connection is lost', 'open', [], []],
  ['open', 'the connection is made again', 'open', ['hello'], []],
  ['open', 'prefill is silent for too long', gone, [], ['failed(PEER_LOST)', 'settled']],
  ['open', 'the engine of prefill is gone', gone, [], ['failed(PEER_LOST)', 'settled']],
  ['open', 'the progress deadline passes', 'open', [], []],

  ['reserving', 'accept(parked)', 'accepted', [], ['accepted(0)']],
  ['reserving', 'accept(paired)', 'receiving', [], ['accepted(0)']],
  ['reserving', 'refuse(OVER_LIMIT)', gone, [], ['failed(OVER_LIMIT)', 'settled']],
  ['reserving', 'refuse(STALE)', 'reserving', ['reserve'], []],
  ['reserving', 'status(parked)', 'accepted', [], ['accepted(0)']],
  ['reserving', 'status(paired)', 'receiving', [], ['accepted(0)']],
  ['reserving', 'status(over)', 'reserving', ['reserve'], []],
  ['reserving', 'status(complete)', gone, ['ack'], ['accepted(0)', 'done', 'settled']],
  ['reserving', 'complete', gone, ['ack'], ['accepted(0)', 'done', 'settled']],
  ['reserving', 'failed', 'failed', ['ack'], ['failed(TRANSFER_FAILED)']],
  ['reserving', 'drained', gone, [], ['failed(OUTCOME_LOST)', 'settled']],
  ['reserving', 'the host aborts', 'failed', ['abort(ABORTED)'], ['failed(ABORTED)']],
  ['reserving', 'the host reserves', 'reserving', [], ['rejected(INVALID_STATE)']],
  ['reserving', 'the connection is made again', 'reserving', ['hello', 'query'], []],
  ['reserving', 'prefill is silent for half as long', 'reserving', ['query'], []],
  [
    'reserving',
    'prefill is silent for too long',
    'failed',
    ['abort(PEER_LOST)'],
    ['failed(PEER_LOST)'],
  ],
  [
    'reserving',
    'the reserve deadline passes',
    'failed',
    ['query', 'query', 'abort(TIMEOUT)'],
    ['failed(TIMEOUT)'],
  ],

  ['parked', 'accept(parked)', 'accepted', [], []],
  ['parked', 'accept(paired)', 'receiving', [], []],
  ['parked', 'status(parked)', 'accepted', [], []],
  ['parked', 'status(paired)', 'receiving', [], []],
  ['parked', 'status(over)', gone, [], ['failed(OUTCOME_LOST)', 'settled']],
  ['parked', 'refuse(STALE)', gone, [], ['failed(STALE)', 'settled']],
  ['parked', 'complete', gone, ['ack'], ['done', 'settled']],
  ['parked', 'failed', 'failed', ['ack'], ['failed(TRANSFER_FAILED)']],
  ['parked', 'the host aborts', 'failed', ['abort(ABORTED)'], ['failed(ABORTED)']],
  ['parked', 'the connection is lost', 'accepted', [], []],
  ['parked', 'the connection is made again', 'accepted', ['hello', 'query'], []],

  ['receiving', 'accept(parked)', 'receiving', [], []],
  ['receiving', 'accept(paired)', 'receiving', [], []],
  ['receiving', 'ready', 'receiving', ['pages'], []],
  ['receiving', 'progress', 'receiving', [], ['transferring']],
  ['receiving', 'complete', gone, ['ack'], ['done', 'settled']],
  ['receiving', 'status(complete)', gone, ['ack'], ['done', 'settled']],
  [
    'receiving',
    'complete with a page too few',
    'failed',
    ['abort(MANIFEST_MISMATCH)'],
    ['failed(MANIFEST_MISMATCH)'],
  ],
  ['receiving', 'failed', 'failed', ['ack'], ['failed(TRANSFER_FAILED)']],
  ['receiving', 'failed and drained', gone, ['ack'], ['failed(TRANSFER_FAILED)', 'settled']],
  ['receiving', 'status(failed)', 'failed', ['ack'], ['failed(TRANSFER_FAILED)']],
  ['receiving', 'status(over)', gone, [], ['failed(OUTCOME_LOST)', 'settled']],
  ['receiving', 'drained', gone, [], ['failed(OUTCOME_LOST)', 'settled']],
  ['receiving', 'the host aborts', 'failed', ['abort(ABORTED)'], ['failed(ABORTED)']],
  ['receiving', 'the host provides pages', 'receiving', [], ['rejected(INVALID_STATE)']],
  ['receiving', 'the connection is lost', 'receiving', [], []],
  ['receiving', 'the connection is made again', 'receiving', ['hello', 'query'], []],
  ['receiving', 'the connection is refused', 'failed', [], ['failed(UNAUTHORIZED)']],
  ['receiving', 'prefill is silent for half as long', 'receiving', ['query'], []],
  [
    'receiving',
    'prefill is silent for too long',
    'failed',
    ['abort(PEER_LOST)'],
    ['failed(PEER_LOST)'],
  ],
  [
    'receiving',
    'the engine of prefill is gone',
    'failed',
    ['abort(PEER_LOST)'],
    ['failed(PEER_LOST)'],
  ],
  ['receiving', 'the engine of another is gone', 'receiving', [], []],
  ['receiving', 'prefill was replaced', 'failed', ['abort(PEER_LOST)'], ['failed(PEER_LOST)']],

  ['receiving without pages', 'ready', 'receiving', [], ['wanted']],
  ['receiving without pages', 'the host provides pages', 'receiving', ['pages'], []],
  [
    'receiving without pages',
    'complete',
    'failed',
    ['abort(MANIFEST_MISMATCH)'],
    ['failed(MANIFEST_MISMATCH)'],
  ],
  ['asked for pages', 'ready', 'receiving', [], []],
  ['asked for pages', 'the host provides pages', 'receiving', ['pages'], []],
  ['asked for pages', 'the host aborts', 'failed', ['abort(ABORTED)'], ['failed(ABORTED)']],

  ['aborted before an answer', 'accept(parked)', 'failed', [], []],
  ['aborted before an answer', 'accept(paired)', 'failed', [], []],
  ['aborted before an answer', 'status(parked)', 'failed', [], []],
  ['aborted before an answer', 'complete', 'failed', [], []],
  ['aborted before an answer', 'refuse(STALE)', gone, [], ['settled']],
  ['aborted before an answer', 'drained', gone, [], ['settled']],

  ['aborted', 'accept(parked)', 'failed', [], []],
  ['aborted', 'accept(paired)', 'failed', [], []],
  ['aborted', 'ready', 'failed', [], []],
  ['aborted', 'progress', 'failed', [], []],
  ['aborted', 'complete', 'failed', [], []],
  ['aborted', 'failed', 'failed', ['ack'], []],
  ['aborted', 'refuse(OVER_LIMIT)', gone, [], ['settled']],
  ['aborted', 'refuse(STALE)', gone, [], ['settled']],
  ['aborted', 'status(paired)', 'failed', [], []],
  ['aborted', 'status(complete)', 'failed', [], []],
  ['aborted', 'status(failed)', 'failed', ['ack'], []],
  ['aborted', 'status(over)', gone, [], ['settled']],
  ['aborted', 'drained', gone, [], ['settled']],
  ['aborted', 'the host aborts', 'failed', [], []],
  ['aborted', 'the host reserves', 'failed', [], []],
  ['aborted', 'the host provides pages', 'failed', [], []],
  ['aborted', 'the connection is lost', 'failed', [], []],
  ['aborted', 'the connection is made again', 'failed', ['hello', 'abort(ABORTED)'], []],
  ['aborted', 'prefill is silent for half as long', 'failed', ['abort(ABORTED)'], []],
  ['aborted', 'prefill is silent for too long', 'failed', [], []],
  ['aborted', 'the engine of prefill is gone', 'failed', [], []],
  ['aborted', 'prefill was replaced', 'failed', [], []],

  ['failed', 'failed', 'failed', ['ack'], []],
  ['failed', 'complete', 'failed', [], []],
  ['failed', 'drained', gone, [], ['settled']],
  ['failed', 'status(over)', gone, [], ['settled']],
  ['failed', 'the connection is made again', 'failed', ['hello', 'abort(TRANSFER_FAILED)'], []],

  ['success', 'complete', gone, ['ack'], []],
  ['success', 'failed', gone, ['ack'], []],
  ['success', 'drained', gone, [], []],
  ['success', 'status(complete)', gone, ['ack'], []],
  ['success', 'status(over)', gone, [], []],
  ['success', 'the host aborts', gone, [], []],
  ['success', 'the connection is made again', gone, ['hello'], []],
]

test.each(rows)(
  'a request that is %s, and %s: then it is %s, sent %j, host told %j',
  (place, event, next, sent, told) => {
    const d = places[place]().clear()
    events[event](d)
    const did = d.take()
    expect(did.sent).toEqual(sent)
    expect(did.told).toEqual(told)
    expect(d.where()).toBe(next)
  },
)

test('no event gives a request that has ended another end, or takes its failure back', () => {
  for (const place of ['aborted before an answer', 'aborted', 'failed', 'success'] as const) {
    for (const event of Object.keys(events) as Event[]) {
      const d = places[place]().clear()
      const { told } = events[event](d).take()
      expect([place, event, told.filter((news) => news !== 'settled')]).toEqual([place, event, []])
    }
  }
})

test('whatever happened, the state is plain data: no closures, and nothing that hides its parts', () => {
  for (const place of Object.keys(places) as Place[]) {
    for (const event of Object.keys(events) as Event[]) {
      const d = places[place]()
      events[event](d)
      expect([place, event, opaqueParts(d.state)]).toEqual([place, event, []])
    }
  }
})

test('whatever happened, nothing is left once prefill has said drained', () => {
  for (const place of Object.keys(places) as Place[]) {
    for (const event of Object.keys(events) as Event[]) {
      const d = places[place]()
      events[event](d)
      d.hostAbort()
      for (const link of d.state.links.values()) {
        for (const ep of [...link.legs.keys()]) d.message(p1, { k: 'drained', ep })
      }
      // Prefill that was replaced does not say so any more: its fence does.
      d.step({ type: 'fenced', writer: p1.writer }).tick(deadlines.linger)
      expect([place, event, d.left()]).toEqual([place, event, ''])
    }
  }
})

// Reserving

test('a reserve carries what pairs and what is written where', () => {
  const d = places
    .open()
    .clear()
    .reserve(1, int32(8, 9), 6, { mamba: int32(2) })
  expect(d.take().messages[0]).toMatchObject({
    k: 'reserve',
    ep: 1,
    room: 9n,
    index: 0,
    tokens: 12,
    prefix: 4,
    digests: false,
  })
  expect(d.message(p1, { k: 'accept', ep: 1, state: 'parked' }).take().told).toEqual([
    'accepted(4)',
  ])
})

test('a prefix that is the whole prompt is no whole page, needs none, and completes with nothing landed', () => {
  const reached = () => new DecodeSide().receive(1, { tokens: 10 }).read(p1).up(p1).welcome(p1)
  const d = reached().clear().reserve(1, int32(), 10)
  expect(d.take().messages[0]).toMatchObject({ k: 'reserve', tokens: 10, prefix: 10 })
  d.message(p1, { ...completeBody(), manifest: { parts: {}, chunks: 0, ms: 0 } })
  expect(d.take().told).toEqual(['accepted(10)', 'done', 'settled'])
  // One token less is rounded down to whole pages.
  const less = reached().clear().reserve(1, int32(7), 9)
  expect(less.take().messages[0]).toMatchObject({ k: 'reserve', prefix: 8 })
})

test('each prefill rank is told the pages of what it has bytes for', () => {
  const [cached, state] = smallCache().shape.components
  const tensors = (layer: number, all: CacheShape['components'][number]) =>
    all.tensors.filter((tensor) => tensor.layer === layer)
  // The cache in layer 1, the state in layer 0.
  const shape = smallCache({
    components: [
      { ...cached!, tensors: tensors(1, cached!) },
      { ...state!, tensors: tensors(0, state!) },
    ],
  }).shape
  const { place } = smallCache()
  const held = place.tensors.filter(({ component, layer }) => component === 'mamba' || layer === 1)
  const d = new DecodeSide({ cache: { shape, place: { ...place, tensors: held } } })
  const from = 'tcp://two:8998'
  d.receive(1, { from }).step(twoRanks(from))
  for (const pp of [0, 1]) {
    const stage = prefiller(pp, {
      endpoint: `tcp://two:${String(pp)}`,
      incarnation: name128('T', pp),
    })
    const name = pp === 0 ? 'mamba' : 'kv'
    const own = {
      components: { [name]: place.components[name]! },
      tensors: held.filter(({ component }) => component === name),
    }
    const rank = makeRank(layers, { ppSize: 2, pp })
    d.up(stage).welcome(stage, { rank, ...onWire({ shape, place: own }) })
  }
  d.clear().reserve(1, int32(5, 6, 7), 0, { mamba: int32(2) })
  const named = d
    .take()
    .messages.flatMap((m) => (m.k === 'reserve' ? [unpackPages(m.pages ?? {})] : []))
  expect(named).toEqual([{ mamba: int32(2) }, { kv: int32(5, 6, 7) }])
})

test('a reserve made before prefill was found goes out when it has welcomed', () => {
  const d = new DecodeSide().receive().reserve().read(p1).up(p1).clear().welcome(p1)
  expect(d.take().sent).toEqual(['reserve'])
})

test('a reserve made while the connection is down has a deadline', () => {
  const d = places.open().down(p1).reserve().clear()
  for (let ms = 0; ms <= deadlines.reserve && d.where() !== 'gone'; ms += 500) d.tick(500)
  expect(d.take().told).toEqual([expect.stringMatching(/failed\((TIMEOUT|PEER_LOST)\)/), 'settled'])
})

const wrongPages: [string, (d: DecodeSide) => DecodeSide][] = [
  ['too few pages', (d) => d.reserve(1, int32(5, 6))],
  ['pages that the prefix covers', (d) => d.reserve(1, int32(5, 6, 7), 4)],
  ['a page beyond the pool', (d) => d.reserve(1, int32(5, 6, 16))],
  ['a negative page', (d) => d.reserve(1, int32(5, 6, -1))],
  ['a page twice', (d) => d.reserve(1, int32(5, 6, 5))],
  ['a prefix longer than the prompt', (d) => d.reserve(1, int32(), 13)],
  ['a negative prefix', (d) => d.reserve(1, int32(4, 5, 6, 7), -1)],
  ['a state page beyond the pool', (d) => d.reserve(1, int32(5, 6, 7), 0, { mamba: int32(4) })],
  ['a state page twice', (d) => d.reserve(1, int32(5, 6, 7), 0, { mamba: int32(1, 1) })],
  ['too many pages', (d) => d.reserve(1, int32(5, 6, 7, 8))],
  ['no pages of a component', (d) => d.reserveAll({ mamba: int32() })],
  [
    'pages of a component that there is not',
    (d) => d.reserveAll({ kv: int32(5, 6, 7), mamba: int32(), swa: int32() }),
  ],
  [
    'pages of a component of a name of Object.prototype',
    (d) => d.reserveAll({ kv: int32(5, 6, 7), mamba: int32(), toString: int32() }),
  ],
]
test.each(wrongPages)(
  'a host that reserves %s is told at once, and nothing has changed',
  (_what, reserve) => {
    const d = reserve(places.open().clear())
    expect(d.take()).toMatchObject({ sent: [], told: ['rejected(INVALID_ARGUMENT)'] })
    expect(d.reserve().take().sent).toEqual(['reserve'])
  },
)

test.each([
  [
    'now',
    () =>
      places
        .open()
        .clear()
        .reserveAll({ kv: int32(5, 6, 7) }),
  ],
  [
    'late',
    () =>
      places['asked for pages']()
        .clear()
        .provide(1, { kv: int32(5, 6, 7) }),
  ],
])('a host that gives pages %s and no state asks for none', (_, give) => {
  const [message] = give().take().messages
  const { pages = {} } = message as MessageOf<'reserve'>
  expect(
    Object.fromEntries(Object.entries(pages).map(([name, list]) => [name, list.length])),
  ).toEqual({
    ...{ kv: 12, mamba: 0 },
  })
})

test('an epoch is never used twice: each try and each request has a higher one', () => {
  const d = places
    .reserving()
    .clear()
    .message(p1, refuse('ERR_KVX_STALE'))
    .receive(2, { room: 10n })
    .reserve(2)
  expect(d.take().messages.map((message) => ('ep' in message ? message.ep : 0))).toEqual([2, 3])
})

test('epochs count on when the connection to the same prefill process is given up and made again', () => {
  const d = places.success().pass(deadlines.linger, p1)
  d.tick(deadlines.peerSilent + 1).tick()
  expect(d.link(p1)).toBe('gone')
  d.receive(2).read(p1).up(p1).welcome(p1).clear().reserve(2)
  expect(d.take().messages[0]).toMatchObject({ k: 'reserve', ep: 2 })
})

test('hello names the highest epoch so far', () => {
  const d = places.receiving().clear().reconnect(p1)
  expect(d.take().messages[0]).toMatchObject({ k: 'hello', epoch: 1 })
})

test('an epoch that was over before it began is tried again a few times, then the request fails', () => {
  const d = places.reserving().clear()
  for (let ep = 1; ep <= 3; ep++) d.message(p1, { ...refuse('ERR_KVX_STALE'), ep })
  expect(d.take()).toMatchObject({
    sent: ['reserve', 'reserve'],
    told: ['failed(STALE)', 'settled'],
  })
})

test('pages given late are sent again when prefill asks again: they may have been lost with a connection', () => {
  const d = places['asked for pages']()
    .provide()
    .reconnect(p1)
    .clear()
    .message(p1, { k: 'ready', ep: 1 })
  expect(d.take()).toMatchObject({ sent: ['pages'], told: [] })
})

test('pages that the host has before prefill asks are sent with the reserve', () => {
  const d = places.resolving().reserveLate().provide().read(p1).up(p1).clear().welcome(p1)
  expect(d.take().messages.at(-1)).toMatchObject({
    k: 'reserve',
    pages: { kv: expect.anything() as Uint8Array },
  })
})

// Success

test('success tells aux and report, and acknowledges', () => {
  const d = places.receiving().clear().complete(p1)
  expect(d.take().effects.find((e) => e.do === 'receiver.done')).toMatchObject({
    aux: { firstToken: 42 },
    report: { pages: 3, bytes: 3 * kvBytes, chunks: 2, ms: 3 },
  })
})

const wrongManifests: [string, Record<string, { units: number; bytes: number }>][] = [
  ['a token of one layer less', { kv: { units: unitsOf(3) - 1, bytes: 3 * kvBytes } }],
  ['a token of one layer more', { kv: { units: unitsOf(3) + 1, bytes: 3 * kvBytes } }],
  ['a layer less', { kv: { units: unitsOf(3) / layers, bytes: 3 * kvBytes } }],
  ['a byte less', { kv: { units: unitsOf(3), bytes: 3 * kvBytes - 1 } }],
  ['a page more of bytes', { kv: { units: unitsOf(3), bytes: 4 * kvBytes } }],
  ['no kv', {}],
  [
    'a component that was not reserved',
    { kv: { units: unitsOf(3), bytes: 3 * kvBytes }, mamba: { units: 1, bytes: 8 } },
  ],
  [
    'an unknown component',
    { kv: { units: unitsOf(3), bytes: 3 * kvBytes }, other: { units: 1, bytes: 8 } },
  ],
  [
    'a component of a name of Object.prototype',
    { kv: { units: unitsOf(3), bytes: 3 * kvBytes }, toString: { units: 1, bytes: 8 } },
  ],
]
test.each(wrongManifests)(
  'a manifest with %s fails the request, and its pages wait for drained',
  (_what, parts) => {
    const d = places
      .receiving()
      .clear()
      .message(p1, { ...completeBody(), manifest: { parts, chunks: 1, ms: 1 } })
    expect(d.take()).toMatchObject({
      sent: ['abort(MANIFEST_MISMATCH)'],
      told: ['failed(MANIFEST_MISMATCH)'],
    })
    expect(d.message(p1, { k: 'drained', ep: 1 }).take().told).toEqual(['settled'])
  },
)

test('every state component that was reserved must be in the manifest', () => {
  const start = () =>
    places
      .open()
      .reserve(1, int32(5, 6, 7), 0, { mamba: int32(2) })
      .clear()
  expect(start().complete(p1).take().told).toEqual(['failed(MANIFEST_MISMATCH)'])
  const parts = { kv: { units: unitsOf(3), bytes: 3 * kvBytes }, mamba: { units: 1, bytes: 8 } }
  expect(
    start()
      .message(p1, { ...completeBody(), manifest: { parts, chunks: 1, ms: 1 } })
      .take().told,
  ).toContain('done')
})

test('an aux larger than prefill announced fails the request', () => {
  const fits = places
    .receiving()
    .clear()
    .complete(p1, 1, { blob: new Uint8Array(limits.auxBytes) })
  expect(fits.take().told).toEqual(['done', 'settled'])
  const large = places
    .receiving()
    .clear()
    .complete(p1, 1, { blob: new Uint8Array(limits.auxBytes + 1) })
  expect(large.take()).toMatchObject({
    sent: ['abort(AUX_TOO_LARGE)'],
    told: ['failed(AUX_TOO_LARGE)'],
  })
})

const digests = { kv: new Uint8Array(16 * layers), mamba: new Uint8Array(16) }
const verifying = () =>
  new DecodeSide({ verify: true }).open(p1).reserve().clear().complete(p1, 1, { digests })

test('with digests, success is said and acknowledged only after they were compared', () => {
  const d = verifying()
  expect(d.take()).toMatchObject({ sent: [], told: ['accepted(0)'], world: ['verify'] })
  d.step({ type: 'verified', request: 1, epoch: 1, error: undefined })
  expect(d.take()).toMatchObject({ sent: ['ack'], told: ['done', 'settled'] })
})

test('what arrived damaged fails the request, and its pages wait for drained', () => {
  const d = verifying()
    .clear()
    .step({
      type: 'verified',
      request: 1,
      epoch: 1,
      error: new KvxError('ERR_KVX_CHECKSUM_MISMATCH', 'layer 1'),
    })
  expect(d.take()).toMatchObject({
    sent: ['abort(CHECKSUM_MISMATCH)'],
    told: ['failed(CHECKSUM_MISMATCH)'],
  })
  expect(d.where()).toBe('failed')
})

test.each([
  ['none', undefined],
  ['of a layer too few', { ...digests, kv: new Uint8Array(16) }],
  ['of a layer too many', { ...digests, kv: new Uint8Array(48) }],
  ['not of every component', { kv: digests.kv }],
])('digests that were asked for must come, one per component and layer: %s', (_what, given) => {
  const d = new DecodeSide({ verify: true })
    .open(p1)
    .reserve()
    .clear()
    .complete(p1, 1, given ? { digests: given } : {})
  expect(d.take().told).toEqual(['failed(MANIFEST_MISMATCH)'])
})

test('digests that were not asked for are no success', () => {
  const d = places.receiving().clear().complete(p1, 1, { digests })
  expect(d.take().told).toEqual(['failed(MANIFEST_MISMATCH)'])
})

test('an abort while digests are compared wins over their result', () => {
  const d = verifying()
    .clear()
    .hostAbort()
    .step({ type: 'verified', request: 1, epoch: 1, error: undefined })
  expect(d.take().told).toEqual(['failed(ABORTED)'])
})

test('a comparison of digests that never ends has a deadline', () => {
  const d = verifying().clear().pass(deadlines.progress, p1)
  expect(d.take().told).toEqual(['failed(TIMEOUT)'])
})

// Failure

test('the first cause is kept, with who, where and in which phase', () => {
  const d = places.receiving().clear().message(p1, failed).hostAbort()
  const told = d.take().effects.filter((e) => e.do === 'receiver.failed')
  expect(told).toHaveLength(1)
  expect(told[0]?.error).toMatchObject({
    code: 'ERR_KVX_TRANSFER_FAILED',
    message: 'the wire broke',
    phase: 'transfer',
    peer: 'prefill-a',
    rank: 'tp0/pp0/cp0/dp0',
  })
})

test('prefill that tells of another rank than its own is quoted with name and rank of that one', () => {
  const other = { peer: 'decode-b', rank: 'tp3/pp0/cp0/dp0' }
  for (const kind of [failed, refuse('ERR_KVX_OVER_LIMIT')]) {
    const d = places
      .reserving()
      .clear()
      .message(p1, { ...kind, ...other })
    const told = d.take().effects.find((e) => e.do === 'receiver.failed')
    expect(told?.error).toMatchObject(other)
  }
})

test.each([
  ['of which prefill was not sent its leg', {}, 'ROOM_UNKNOWN'],
  ['that prefill had sent before', { consumed: true }, 'ROOM_CONSUMED'],
])('a room %s fails at the pairing deadline with a code that says so', (_what, more, code) => {
  for (const parked of [{ k: 'accept', ep: 1, state: 'parked' }, status('parked')]) {
    const d = places
      .reserving()
      .message(p1, { ...parked, ...more })
      .clear()
    d.pass(deadlines.pairing - 1, p1)
    expect(d.take().told).toEqual([])
    expect(d.pass(1, p1).take().told).toEqual([`failed(${code})`])
  }
})

test('a room that prefill had sent before is an ordinary one when both legs use it again', () => {
  const d = places.reserving().message(p1, { k: 'accept', ep: 1, state: 'parked', consumed: true })
  d.message(p1, { k: 'accept', ep: 1, state: 'paired' }).clear().complete(p1)
  expect(d.take().told).toEqual(['done', 'settled'])
})

test('when prefill cannot be heard at the pairing deadline, nothing is said of its leg', () => {
  const d = new DecodeSide({ deadlines: { peerSilent: 1_000_000 } })
    .open(p1)
    .reserve()
    .message(p1, { k: 'accept', ep: 1, state: 'parked' })
    .down(p1)
    .clear()
  expect(d.pass(deadlines.pairing).take().told).toContain('failed(TIMEOUT)')
})

test('progress moves the deadline, and only more pages are progress', () => {
  const d = places
    .receiving()
    .pass(deadlines.progress - 1_000, p1)
    .message(p1, { k: 'progress', ep: 1, units: 1 })
  d.pass(deadlines.progress - 1_000, p1)
    .message(p1, { k: 'progress', ep: 1, units: 1 })
    .clear()
    .pass(1_000, p1)
  expect(d.take().told).toEqual(['failed(TIMEOUT)'])
})

test('more units than were asked for are no progress: they would keep the deadline off for ever', () => {
  const d = places.receiving().pass(deadlines.progress - 1_000, p1)
  d.message(p1, { k: 'progress', ep: 1, units: unitsOf(3) + 1 }).clear()
  expect(d.pass(1_000, p1).take().told).toEqual(['failed(TIMEOUT)'])
})

test('with every ping prefill is told which requests wait for their turn here, until they reserve', () => {
  const d = open().receive(2, { room: 10n }).clear().pass(deadlines.ping, p1)
  const queued = () => d.take().messages.flatMap((m) => (m.k === 'queued' ? [m.rooms] : []))
  expect(queued()).toEqual([
    [
      [9n, 0],
      [10n, 0],
    ],
  ])
  d.reserve().pass(deadlines.ping, p1)
  expect(queued()).toEqual([[[10n, 0]]])
  d.hostAbort(2).pass(deadlines.ping, p1)
  expect(queued()).toEqual([])
})

test('a burst is told in several messages, none too large for the wire', () => {
  const d = new DecodeSide({ limits: { requests: 10_000 } }).open(p1)
  for (let i = 2; i <= 5_000; i++) d.receive(i, { room: BigInt(i) })
  const { messages } = d.clear().pass(deadlines.ping, p1).take()
  const told = messages.flatMap((m) => (m.k === 'queued' ? [m.rooms.length] : []))
  expect(told).toEqual([4_096, 904])
})

test.each([
  ['parked', 'pairing'],
  ['receiving', 'progress'],
] as const)(
  'a request that is %s does not time out while prefill says that it is queued there, but for the queue deadline',
  (place, deadline) => {
    const d = places[place]().clear()
    const state = place === 'parked' ? 'parked' : 'paired'
    const wait = (ms: number) => {
      for (let waited = 0; waited < ms; waited += 5_000)
        d.pass(5_000, p1).message(p1, status(state, { queued: true }))
    }
    wait(deadlines.queue - 5_000)
    expect(deadlines.queue - 5_000).toBeGreaterThan(deadlines[deadline])
    expect(d.take().told).toEqual([])
    wait(10_000)
    expect(d.take().told[0]).toMatch(/^failed/)
  },
)

test('a prefill that says no more that a request is queued has the progress deadline for its first page', () => {
  const d = places
    .receiving()
    .pass(20_000, p1)
    .message(p1, status('paired', { queued: true }))
  d.message(p1, status('paired'))
    .clear()
    .pass(deadlines.progress - 1, p1)
  expect(d.take().told).toEqual([])
  expect(d.pass(1, p1).take().told).toEqual(['failed(TIMEOUT)'])
})

test('the host is told when prefill has answered, before it need have pages', () => {
  const reached = (d: DecodeSide) => d.take().effects.filter((e) => e.do === 'receiver.reached')
  const d = places.greeting()
  expect(reached(d)).toHaveLength(0)
  expect(reached(d.welcome(p1))).toHaveLength(1)
})

test('news that is late is asked for, of live epochs and of aborted ones', () => {
  const live = places.receiving().clear().pass(deadlines.peerSilent, p1)
  expect(live.take().sent).toEqual(['query', 'query'])
  const aborted = places.aborted().clear().pass(deadlines.peerSilent, p1)
  expect(aborted.take().sent).toEqual(['abort(ABORTED)', 'abort(ABORTED)'])
})

test('the pages of a failed request never come back by time alone', () => {
  const d = places.aborted().clear().pass(1_000_000, p1)
  expect(d.take().told).toEqual([])
  expect(d.where()).toBe('failed')
})

// Identity

test.each([
  ['of another prefill incarnation', { from: name128('P', 2) }, []],
  ['for another decode incarnation', { to: name128('D', 2) }, []],
  ['of another generation', { gen: name128('G', 2) }, []],
  ['of another epoch', { ep: 9 }, ['complete', 'failed']],
])('a message %s changes nothing', (_what, change, answered: readonly string[]) => {
  for (const body of [
    completeBody(),
    failed,
    { k: 'drained', ep: 1 },
    refuse('ERR_KVX_OVER_LIMIT'),
    status('over'),
    { k: 'accept', ep: 1, state: 'paired' },
  ]) {
    for (const place of ['reserving', 'aborted'] as const) {
      const d = places[place]().clear()
      const before = d.where()
      d.message(p1, { ...body, ...change })
      const { sent, told, world } = d.take()
      const answer = answered.includes(body.k) ? ['abort(EPOCH_MISMATCH)'] : []
      expect([body.k, sent, told, world]).toEqual([body.k, answer, [], []])
      expect(d.where()).toBe(before)
    }
  }
})

test('what another connection says of the epoch changes nothing', () => {
  const d = places.receiving()
  const other = prefiller(2, { endpoint: 'tcp://other:4000' })
  d.receive(2, { room: 10n, from: 'tcp://other:8998' })
    .read(other, 'tcp://other:8998')
    .up(other)
    .welcome(other)
    .clear()
  d.message(other, { k: 'drained', ep: 1 }).message(
    { ...other, incarnation: p1.incarnation },
    { k: 'drained', ep: 1 },
  )
  expect(d.take()).toMatchObject({ told: [] })
  expect(d.where()).toBe('receiving')
})

test.each(['hello', 'queued', 'reserve', 'pages', 'ack', 'abort', 'query', 'ping'])(
  'a %s, which only decode says, is counted and changes nothing',
  async (kind) => {
    const { samples } = await import('./protocol/fixtures.ts')
    const d = places.receiving().clear()
    const ep = ['hello', 'queued', 'ping'].includes(kind) ? {} : { ep: 1 }
    d.message(p1, {
      ...samples[kind as 'ack'],
      from: p1.incarnation,
      to: d.state.self.incarnation,
      gen: d.state.engine.generation,
      ...ep,
    })
    expect(d.take().effects).toEqual([])
    expect(d.where()).toBe('receiving')
    expect([...d.state.dropped.values()]).toEqual([1])
  },
)

// Prefill ranks

test('the bootstrap is watched once for several requests, whatever becomes of the connections', () => {
  const d = new DecodeSide().receive(1).receive(2, { room: 10n })
  expect(d.take().world).toEqual(['watchSource'])
  d.read(p1).up(p1).welcome(p1).clear().receive(3, { room: 11n })
  expect(d.take().world).toEqual([])
  expect(d.where(3)).toBe('open')
  d.down(p1).clear().receive(4, { room: 12n })
  expect(d.take().world).toEqual([])
  expect(d.where(4)).toBe('resolving')
})

test('a bootstrap that does not answer is not watched for longer than the linger', () => {
  const d = new DecodeSide()
  for (let i = 1; i <= 5; i++) {
    const from = `tcp://nobody:${String(i)}`
    d.receive(i, { room: BigInt(i), from }).step({
      type: 'source.failed',
      from,
      error: new KvxError('ERR_KVX_BOOTSTRAP_UNREACHABLE', 'nobody'),
    })
    d.receive(100 + i, { room: BigInt(i), from: `${from}0` }).hostAbort(100 + i)
  }
  d.clear().pass(deadlines.linger)
  expect(d.state.sources.size).toBe(0)
  expect(d.take().world.filter((e) => e === 'unwatchSource')).toHaveLength(10)
})

test('the number of bootstrap services that are watched is bounded', () => {
  const d = new DecodeSide({ limits: { ...limits, peers: 1, requests: 99 } }).receive(1)
  d.clear().receive(2, { room: 10n, from: 'tcp://other:1' })
  expect(d.take()).toMatchObject({ told: ['failed(OVER_LIMIT)', 'settled'], world: [] })
})

/** The ranks of an instance of two pipeline stages, both of which a decode rank needs. */
const twoRanks = (from: string): DecodeEvent => ({
  type: 'source.read',
  from,
  ranks: [0, 1].map((pp) => ({
    endpoint: `tcp://two:${String(pp)}`,
    incarnation: name128('T', pp),
    instance: 'prefill-b',
    rank: makeRank(layers, { ppSize: 2, pp }),
  })),
})

test('the number of prefill ranks that decode connects to is bounded', () => {
  const d = new DecodeSide({ limits: { peers: 2 } }).open(p1)
  const from = 'tcp://two:8998'
  d.receive(2, { room: 10n, from }).clear().step(twoRanks(from))
  expect(d.take()).toMatchObject({ told: ['failed(OVER_LIMIT)', 'settled'], world: [] })
  expect(d.where(1)).toBe('open')
})

test('a prefill that no watched bootstrap names makes room for others when there is none', () => {
  const d = new DecodeSide({ limits: { peers: 2 } }).open(p1).hostAbort().pass(deadlines.linger, p1)
  expect(d.link(p1)).toBe('ready')
  const from = 'tcp://two:8998'
  d.receive(2, { from }).clear().step(twoRanks(from))
  expect(d.take()).toMatchObject({ told: [], world: ['disconnect', 'connect', 'connect'] })
})

test('a lost prefill is kept while its bootstrap names it, and forgotten with its bootstrap', () => {
  const d = places.success().tick(deadlines.peerSilent + 1)
  expect(d.link(p1)).toBe('lost')
  d.pass(deadlines.linger).tick()
  expect([d.state.links.size, d.state.sources.size]).toEqual([0, 0])
})

test('a new request waits for a lost prefill only as long as the probe, and its error names it', () => {
  const d = places.success().tick(deadlines.peerSilent + 1)
  d.clear()
    .receive(2)
    .pass(deadlines.probe - 1)
  expect(d.take().told).toEqual([])
  d.pass(1)
  expect(d.take().told).toEqual(['failed(PEER_LOST)', 'settled'])
})

test('a request has a probe of its own', () => {
  const d = places.success().tick(deadlines.peerSilent + 1)
  d.clear()
    .receive(2, { deadlines: { probe: 2 * deadlines.probe } })
    .pass(deadlines.probe)
  expect(d.take().told).toEqual([])
  d.pass(deadlines.probe)
  expect(d.take().told).toEqual(['failed(PEER_LOST)', 'settled'])
})

test('a request that waits for a lost prefill goes on when it is back', () => {
  const d = places.success().tick(deadlines.peerSilent + 1)
  d.receive(2).pass(deadlines.probe / 2)
  d.up(p1).welcome(p1)
  expect(d.where(2)).toBe('open')
})

test('a request that waits for a lost prefill goes to the process that has replaced it', () => {
  const d = places.success().tick(deadlines.peerSilent + 1)
  d.receive(2).clear().read(prefiller(2)).up(prefiller(2)).welcome(prefiller(2))
  expect(d.take().told).toEqual([])
  expect(d.where(2)).toBe('open')
})

test('a bootstrap that cannot be reached fails new requests after the probe, with its own error', () => {
  const d = new DecodeSide().receive(1)
  d.sourceFailed().clear().pass(deadlines.probe)
  expect(d.take().told).toEqual(['failed(BOOTSTRAP_UNREACHABLE)', 'settled'])
})

test('a bootstrap that is lost while its ranks are known fails nothing', () => {
  const d = places.receiving().clear().sourceFailed().pass(deadlines.probe, p1)
  expect(d.take().told).toEqual([])
})

test('another token at the bootstrap is told at once', () => {
  const d = new DecodeSide().receive(1).clear().sourceFailed('ERR_KVX_UNAUTHORIZED')
  expect(d.take().told).toEqual(['failed(UNAUTHORIZED)', 'settled'])
})

test('prefill that does not know us any more is greeted again, once', () => {
  const d = places.receiving().clear()
  for (let i = 0; i < 3; i++)
    d.message(p1, { k: 'refuse', code: 'ERR_KVX_INVALID_STATE', text: 'say hello' })
  expect(d.take().sent).toEqual(['hello'])
  expect(d.where()).toBe('receiving')
})

test.each(['greeting', 'receiving'] as const)(
  'prefill that refuses a ping while a request is %s is greeted again with the next one, and with no other',
  (place) => {
    const d = places[place]().tick(deadlines.ping).clear()
    const refusal = { k: 'refuse', code: 'ERR_KVX_INVALID_STATE', text: 'say hello' }
    d.message(p1, { ...refusal, gen: '0'.repeat(32) })
    expect(d.take().sent).toEqual([])
    d.tick(deadlines.ping)
    expect(d.take().sent.filter((kind) => kind === 'hello')).toEqual(['hello'])
    d.tick(deadlines.ping)
    expect(d.take().sent).not.toContain('hello')
  },
)

const withKv = (change: object) => {
  const { components } = smallCache().shape
  const [cached, state] = components
  const tensors = cached!.tensors.map((tensor) => ({ ...tensor, ...change }))
  return smallCache({ components: [{ ...cached!, tensors }, state!] })
}
test.each<[string, ReturnType<typeof smallCache>, RegExp]>([
  ['model', smallCache({ model: 'other' }), /in the model: prefill has other, decode has small\./],
  [
    'setting',
    smallCache({ settings: { rope: 'long' } }),
    /in the setting 'rope': prefill has long, decode has none\./,
  ],
  [
    'dtype',
    withKv({ dtype: 'f32' }),
    /in the dtype of kv layer 0 k: prefill has f32, decode has f16\./,
  ],
  [
    'number of bytes',
    withKv({ unitBytes: 1 }),
    /in the bytes per unit of kv layer 0 k: prefill has 1, decode has 2\./,
  ],
  [
    'size of elements',
    withKv({ elementBytes: 1 }),
    /in the bytes per element of kv layer 0 k: prefill has 1, decode has none\./,
  ],
])('prefill with another %s is given up, with both values', (_what, cache, message) => {
  const d = places.greeting().clear().welcome(p1, onWire(cache))
  const { told, effects } = d.take()
  expect(told).toEqual(['failed(LAYOUT_MISMATCH)', 'settled'])
  const failed = effects.find((effect) => effect.do === 'receiver.failed')
  expect(failed?.error.message).toMatch(message)
})

test.each([
  ['another coordinate', { tp: 1, tpSize: 2 }],
  ['another size', { tpSize: 2 }],
  ['other stages', { ppSize: 2, stages: [0, 1, layers] }],
  ['another share of the tokens', { context: 'contiguous' as const }],
])(
  'prefill that welcomes with %s than it is registered with is given up: some bytes would come twice, and some never',
  (_what, change) => {
    const d = places
      .greeting()
      .clear()
      .welcome(p1, { rank: { ...makeRank(layers), ...change } })
    expect(d.take().told).toEqual(['failed(LAYOUT_MISMATCH)', 'settled'])
  },
)

test('a new process behind the same address says so, and what ran over the old one fails at once', () => {
  const d = places.receiving().clear().down(p1).up(p1)
  d.message(p1, {
    k: 'refuse',
    from: name128('P', 2),
    code: 'ERR_KVX_STALE',
    text: 'meant for an earlier process',
  })
  expect(d.take()).toMatchObject({ told: ['failed(PEER_LOST)'], world: ['fence', 'disconnect'] })
})

test('pages of a replaced prefill come back when the old writer is fenced', () => {
  const d = places.receiving().read(prefiller(2)).clear()
  expect(d.where()).toBe('failed')
  d.step({ type: 'fenced', writer: p1.writer })
  expect(d.take().told).toEqual(['settled'])
})

test('a prefill whose engine is gone is fenced at once, and its pages are free when that is done', () => {
  const d = places.receiving().clear()
  d.step({ type: 'link.down', endpoint: p1.endpoint })
  d.step({ type: 'peer.gone', generation: p1.writer, reason: 'Its process has exited.' })
  const { told, world } = d.take()
  expect({ told, world }).toMatchObject({ told: ['failed(PEER_LOST)'], world: ['fence'] })
  d.step({ type: 'peer.gone', generation: p1.writer, reason: 'Its process has exited.' })
  expect(d.take()).toMatchObject({ told: [], world: [] })
  expect(d.step({ type: 'fenced', writer: p1.writer }).take().told).toEqual(['settled'])
})

test('a fence of one writer frees nothing of another', () => {
  const d = places
    .receiving()
    .tick(deadlines.peerSilent + 1)
    .clear()
    .step({ type: 'fenced', writer: name128('W', 9) })
  expect(d.take().told).toEqual([])
  expect(d.step({ type: 'fenced', writer: p1.writer }).take().told).toEqual(['settled'])
})

test('a fence frees nothing of a prefill that came back and is ready', () => {
  const d = places
    .receiving()
    .tick(deadlines.peerSilent + 1)
    .reconnect(p1)
    .clear()
    .step({ type: 'fenced', writer: p1.writer })
  expect(d.take().told).toEqual([])
})

test('a prefill that was silent and lives on is greeted again until its epochs are drained', () => {
  const d = places
    .receiving()
    .tick(deadlines.peerSilent + 1)
    .clear()
  expect(d.link(p1)).toBe('lost')
  d.pass(2 * deadlines.ping)
  expect(d.take().sent).toContain('hello')
  d.welcome(p1)
  expect(d.take().sent).toEqual(['abort(PEER_LOST)'])
  expect(d.message(p1, { k: 'drained', ep: 1 }).take().told).toEqual(['settled'])
})

test('a prefill that was silent and is asked for again has its whole deadline to answer', () => {
  const d = places
    .receiving()
    .tick(deadlines.peerSilent + 1)
    .receive(2, { room: 10n })
    .read(p1)
    .clear()
    .tick(50)
  expect(d.take().told).toEqual([])
  expect(d.welcome(p1).take().sent).toEqual(['abort(PEER_LOST)'])
  expect(d.where(2)).toBe('open')
})

// Admission

test('a live room takes no second request, and one that has failed does', () => {
  expect(receiveObjection(places.receiving().state, '9/0')?.code).toBe('ERR_KVX_ROOM_IN_USE')
  expect(receiveObjection(places.aborted().state, '9/0')).toBeUndefined()
  expect(receiveObjection(places.receiving().state, '9/1')).toBeUndefined()
})

test('the number of requests is bounded, those in quarantine counted', () => {
  const d = new DecodeSide().open(p1)
  for (let i = 2; i <= limits.requests; i++) d.receive(i, { room: BigInt(i) })
  d.reserve(1).hostAbort(1)
  expect(receiveObjection(d.state, '99/0')?.code).toBe('ERR_KVX_OVER_LIMIT')
})

// Recycling the engine (fence kind `engine`)

const engineSide = () => new DecodeSide({ fence: 'engine' }).open(p1)

test('quarantine with nothing live replaces the engine, and its pages come back only then', () => {
  const d = engineSide().reserve().hostAbort().clear().pass(deadlines.drain, p1)
  expect(d.take()).toMatchObject({ told: [], world: ['recycle'] })
  d.pass(1_000_000, p1)
  expect(d.take()).toMatchObject({ told: [], world: ['unwatchSource'] })
  d.recycled()
  expect(d.take()).toMatchObject({ told: ['settled'], sent: ['hello'] })
})

test('drained in time makes the engine stay', () => {
  const d = engineSide()
    .reserve()
    .hostAbort()
    .message(p1, { k: 'drained', ep: 1 })
    .clear()
    .pass(3 * deadlines.drain, p1)
  expect(d.take().world).toEqual([])
})

test('an engine that was about to be replaced stays when what was stuck is drained after all', () => {
  const d = engineSide()
    .reserve()
    .hostAbort()
    .receive(2, { room: 10n })
    .reserve(2, int32(8, 9, 10))
    .message(p1, { k: 'accept', ep: 2, state: 'paired' })
  d.state.recycle = { phase: 'draining', deadline: d.now + deadlines.recycle }
  d.receive(3, { room: 11n })
    .reserve(3, int32(11, 12, 13))
    .clear()
  d.message(p1, { k: 'drained', ep: 1 }).tick()
  expect(d.take()).toMatchObject({ sent: ['reserve'], world: [] })
  d.pass(deadlines.recycle, p1)
  expect(d.take().told).not.toContain('failed(TRANSFER_FAILED)')
})

test('a small quarantine waits for what is live, and new requests go on', () => {
  const d = engineSide()
    .reserve()
    .hostAbort()
    .receive(2, { room: 10n })
    .reserve(2, int32(8, 9, 10))
    .message(p1, { k: 'accept', ep: 2, state: 'paired' })
  d.clear().pass(2 * deadlines.drain, p1)
  expect(d.take().world).toEqual([])
  d.complete(p1, 2).clear().pass(deadlines.ping, p1)
  expect(d.take().world).toEqual(['recycle'])
})

test('a quarantine beyond its share stops new reserves, and stragglers fail as retryable', () => {
  const d = engineSide()
    .reserve(1, int32(0, 1, 2))
    .receive(2, { room: 10n })
    .reserve(2, int32(3, 4, 5))
    .hostAbort(1)
    .hostAbort(2)
  d.receive(3, { room: 11n })
    .reserve(3, int32(8, 9, 10))
    .message(p1, { k: 'accept', ep: 3, state: 'paired' })
  d.pass(deadlines.drain, p1)
    .receive(4, { room: 12n })
    .clear()
    .reserve(4, int32(11, 12, 13))
  expect(d.take()).toMatchObject({ sent: [], told: [] })
  d.pass(deadlines.recycle, p1)
  const did = d.take()
  expect(did.world).toEqual(['recycle'])
  expect(did.told).toEqual(['failed(TRANSFER_FAILED)'])
  expect(did.effects.find((e) => e.do === 'receiver.failed')?.error.retryable).toBe(true)
  d.recycled()
  expect(d.take().told).toEqual(['settled', 'settled', 'settled'])
  d.welcome(p1)
  expect(d.take().messages[0]).toMatchObject({ k: 'reserve', ep: 4, gen: name128('G', 2) })
})

test('what waits for a recycle that does not end has a deadline', () => {
  const d = engineSide()
    .reserve()
    .hostAbort()
    .pass(deadlines.drain, p1)
    .receive(2, { room: 10n })
    .reserve(2, int32(8, 9, 10))
    .clear()
  d.pass(deadlines.reserve + deadlines.hello, p1)
  expect(d.take().told).toEqual(['failed(TIMEOUT)', 'settled'])
})

test('a prefill that died with a request that had named no pages yet leaves nothing behind either', () => {
  const d = engineSide()
    .reserveLate()
    .message(p1, { k: 'accept', ep: 1, state: 'parked' })
    .down(p1)
    .clear()
  d.pass(deadlines.peerSilent + deadlines.ping)
  expect(d.take().world).toContain('recycle')
  expect(d.recycled().take().told).toEqual(['settled'])
})

test('pages of a replaced prefill come back with the new engine', () => {
  const d = engineSide().reserve().read(prefiller(2)).clear().tick()
  expect(d.take().world).toEqual(['recycle'])
  expect(d.recycled().take().told).toEqual(['settled'])
})

test('what was said before the new engine changes nothing after it', () => {
  const d = engineSide()
    .reserve()
    .hostAbort()
    .pass(deadlines.drain, p1)
    .recycled()
    .welcome(p1)
    .receive(2)
    .reserve(2)
    .clear()
  const old = { gen: name128('G', 1) }
  d.message(p1, { k: 'drained', ep: 2, ...old }).message(p1, { ...completeBody(2), ...old })
  expect(d.take().told).toEqual([])
})

test('an engine that cannot be opened again fails all, takes no more, and frees no page', () => {
  const d = engineSide()
    .reserve()
    .hostAbort()
    .receive(2, { room: 10n })
    .pass(deadlines.drain, p1)
    .clear()
  d.step({ type: 'engine.failed', error: new KvxError('ERR_KVX_BACKEND_UNAVAILABLE', 'no device') })
  expect(d.take().told).toEqual(['failed(BACKEND_UNAVAILABLE)', 'settled'])
  expect(d.where(1)).toBe('failed')
  expect(receiveObjection(d.state, '50/0')?.code).toBe('ERR_KVX_BACKEND_UNAVAILABLE')
  expect(digest()).toHaveLength(16)
})

test.each(['exit', 'peer'] as const)(
  'a fence of kind %s that fails frees nothing, and is tried again until it succeeds',
  (fence) => {
    const d = new DecodeSide({ fence, deadlines: { linger: 1_000_000 } })
      .open(p1)
      .reserve()
      .tick(deadlines.peerSilent + 1)
    d.clear().step({ type: 'fence.failed', writer: p1.writer })
    d.pass(deadlines.drain - 1)
    expect(d.take()).toMatchObject({ told: [], world: [] })
    expect(d.pass(1).take()).toMatchObject({ told: [], world: ['fence'] })
    // Once for each failure.
    expect(d.pass(10 * deadlines.drain).take().world).not.toContain('fence')
    d.step({ type: 'fence.failed', writer: p1.writer })
    expect(d.pass(deadlines.drain).take().world).toContain('fence')
    d.clear().step({ type: 'fenced', writer: p1.writer })
    expect(d.take().told).toEqual(['settled'])
    expect(d.link(p1)).toBe(fence === 'peer' ? 'greeting' : 'lost')
  },
)

test('a fence that failed is not tried again when nothing waits for it any more', () => {
  const d = places.receiving().tick(deadlines.peerSilent + 1)
  d.step({ type: 'fence.failed', writer: p1.writer })
  d.welcome(p1).message(p1, { k: 'drained', ep: 1 }).clear().pass(deadlines.drain, p1)
  expect(d.take().world).toEqual([])
  expect(d.state.unfenced.size).toBe(0)
})

test('with an engine that can revoke one peer, a lost prefill is greeted only after that, and told of it', () => {
  const d = new DecodeSide({ fence: 'peer' })
    .open(p1)
    .reserve()
    .tick(deadlines.peerSilent + 1)
  expect(d.take().world).toContain('fence')
  d.down(p1)
    .up(p1)
    .pass(2 * deadlines.ping)
  expect(d.take().sent).not.toContain('hello')
  d.step({ type: 'fenced', writer: p1.writer })
  const { told, messages } = d.take()
  expect(told).toEqual(['settled'])
  expect(messages).toMatchObject([{ k: 'hello', fences: 1 }])
})

/** Two data-parallel ranks of prefill, each one process. */
const dpRanks = [0, 1].map((dp) => {
  const at = prefiller(dp + 1, { endpoint: `tcp://prefill:400${String(dp)}` })
  return { ...at, rank: makeRank(layers, { dp, dpSize: 2 }) }
})
const [dp0, dp1] = dpRanks as [(typeof dpRanks)[0], (typeof dpRanks)[0]]
const readBoth = (d: DecodeSide) => d.step({ type: 'source.read', from: bootstrap, ranks: dpRanks })
const published = (d: DecodeSide, dp: number, room = 9n) =>
  d.step({ type: 'source.published', from: bootstrap, room, index: 0, dp })
const asking = (deadline: Partial<typeof deadlines> = {}) =>
  readBoth(new DecodeSide().receive(1, { dpRank: 'published', deadlines: deadline }))
const endpoints = (d: DecodeSide) =>
  d.take().effects.flatMap((effect) => (effect.do === 'connect' ? [effect.endpoint] : []))
const reasons = (d: DecodeSide) =>
  d.take().effects.flatMap((effect) => (effect.do === 'receiver.failed' ? [effect.error] : []))

describe('a data-parallel rank of prefill', () => {
  test.each([
    [undefined, 9n, dp1],
    [undefined, 10n, dp0],
    [0, 9n, dp0],
    [1, 10n, dp1],
  ])('dpRank %s of room %s: decode connects at once', (dpRank, room, { endpoint }) => {
    const d = readBoth(new DecodeSide().receive(1, { room, dpRank }))
    expect(endpoints(d)).toEqual([endpoint])
  })

  test('that is to be published is asked for, and connected when it is', () => {
    const d = asking()
    expect(d.where()).toBe('routing')
    expect(d.take().world).toEqual(['watchSource', 'askPublished'])
    published(d, 0)
    expect(endpoints(d)).toEqual([dp0.endpoint])
    d.up(dp0).welcome(dp0, { rank: dp0.rank })
    expect(d.where()).toBe('open')
    expect(d.reserve().take().sent).toEqual(['hello', 'reserve'])
  })

  test('that was published for another room, or elsewhere, does not count', () => {
    const d = asking().clear()
    published(d, 0, 10n)
    d.step({ type: 'source.published', from: 'tcp://other:1', room: 9n, index: 0, dp: 0 })
    expect(d.where()).toBe('routing')
    expect(endpoints(d)).toEqual([])
  })

  test('that is not published in time ends the request, which is not asked for any more', () => {
    const d = asking().clear().pass(deadlines.pairing)
    expect(d.take()).toMatchObject({
      told: ['failed(ROOM_UNKNOWN)', 'settled'],
      world: ['unaskPublished', 'unwatchSource'],
    })
    expect(d.left()).toBe('')
  })

  test('is not asked for any more when the host aborts', () => {
    const d = asking().clear().hostAbort()
    expect(d.take()).toMatchObject({
      told: ['failed(ABORTED)', 'settled'],
      world: ['unaskPublished'],
    })
  })

  test('of prefill processes that were replaced is asked for again', () => {
    const d = asking()
    published(d, 0)
    readBoth(d.clear())
    expect(d.where()).toBe('routing')
    expect(d.take().world).toContain('askPublished')
  })

  test('is waited for as long as the probe once nobody can be asked, and to the end when the service is back', () => {
    const d = asking().clear().sourceFailed()
    expect(d.pass(deadlines.probe - 1).take().told).toEqual([])
    readBoth(d)
    expect(d.pass(deadlines.pairing - 1).take().told).toEqual([])
    d.sourceFailed().pass(deadlines.probe)
    expect(d.take().told).toEqual(['failed(BOOTSTRAP_UNREACHABLE)', 'settled'])
  })

  test('is not waited for longer than a request may be queued, however often the service is read', () => {
    const queue = 3 * deadlines.pairing
    const d = asking({ queue }).clear()
    for (let i = 0; i < 5; i++) readBoth(d.pass(deadlines.pairing - 1))
    expect(d.take().told).toEqual(['failed(ROOM_UNKNOWN)', 'settled'])
  })

  test.each([
    ['given as dpRank', { dpRank: 1, room: 10n }],
    ['given by room mod dpSize', { room: 9n }],
  ])('%s, while prefill has published another one: the request fails with both', (_, change) => {
    const d = readBoth(new DecodeSide().receive(1, change))
    d.up(dp1).welcome(dp1, { rank: dp1.rank }).reserve()
    d.message(dp1, { k: 'accept', ep: 1, state: 'parked' }).clear()
    d.pass(deadlines.peerSilent / 2, dp1)
    expect(d.take().world).toEqual(['askPublished'])
    d.pass(deadlines.peerSilent, dp1)
    expect(d.take().world).toEqual([])
    published(d, 1, change.room)
    expect(d.take().told).toEqual([])
    published(d, 0, change.room)
    expect(reasons(d)).toMatchObject([
      {
        ...{ code: 'ERR_KVX_INVALID_ARGUMENT', phase: 'parked', peer: 'prefill-a' },
        message: expect.stringMatching(
          /was sent to data-parallel rank 1 of prefill \((given|room mod dpSize)\), and prefill has published rank 0 for it: state the same dpRank on both sides\.$/,
        ) as string,
      },
    ])
  })

  test('that was asked for is not any more once prefill has paired', () => {
    const d = readBoth(new DecodeSide().receive(1, { dpRank: 1 }))
    d.up(dp1).welcome(dp1, { rank: dp1.rank }).reserve()
    d.message(dp1, { k: 'accept', ep: 1, state: 'parked' })
    d.pass(deadlines.peerSilent / 2, dp1).clear()
    d.message(dp1, { k: 'accept', ep: 1, state: 'paired' })
    expect(d.take().world).toEqual(['unaskPublished'])
  })

  test('beyond those of prefill is refused, whoever named it', () => {
    const given = readBoth(new DecodeSide().receive(1, { dpRank: 2 }))
    const told = asking()
    published(told.clear(), 2)
    for (const d of [given, told]) {
      expect(reasons(d)).toMatchObject([
        {
          code: 'ERR_KVX_INVALID_ARGUMENT',
          message:
            'dpRank of room 9/0 must be from 0 to 1, as prefill-a has 2 data-parallel ranks, got 2.',
        },
      ])
    }
  })
})
