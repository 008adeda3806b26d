/**
 * What can one do who holds the token, and what without it? Each attempt is refused with a code of its own,
 * and the requests of others, which run all the while, succeed with the right bytes.
 */
import { allocate } from '@kvx/native'
import shm from '@kvx/shm'
import { afterEach, expect, test } from 'vitest'
import { isKvxError, silentLog } from '@kvx/contract'
import { ControlClient } from '../src/control/index.ts'
import { promptDigest, type TensorShape } from '../src/shape/index.ts'
import { KVManager, KVPoll, type KVReceiver } from '../src/manager/index.ts'
import type { PackedPlace, TensorPlace } from '../src/place/index.ts'
import { packPages } from '../src/protocol/index.ts'
import {
  chunkOf,
  fill,
  memoryFor,
  openPair,
  pageOf,
  pageTokens,
  smallCache,
  type Cache,
  wholePageBytes,
} from './support/pair.ts'
import { onWire } from './protocol/fixtures.ts'
import type { Loopback } from './support/loopback.ts'
import { RawDecode } from './support/raw-decode.ts'
import { RawPrefill } from './support/raw-prefill.ts'

const digest = promptDigest([1, 2, 3, 4, 5, 6, 7, 8])
const tokens = 2 * pageTokens

const open: { close(): Promise<void> | void }[] = []
afterEach(async () => {
  for (const one of open.splice(0).reverse()) await one.close()
})

/** So many whole pages: tokens times three layers. */
const completeFields = (pages: number, change: object = {}) => ({
  manifest: {
    parts: { kv: { units: pages * pageTokens * 3, bytes: pages * wholePageBytes } },
    chunks: 1,
    ms: 1,
  },
  aux: { firstToken: 1, ...change },
})

/** An honest pair whose requests go on, one after the other, until the test has seen enough. */
async function honestPair() {
  const side = await openPair()
  open.push(side)
  fill(side.prefillMemory, 7)
  let room = 1_000n
  let succeeded = 0
  const whole = async () => {
    const request = { tokens, digest }
    const receiver = side.decode.receive(++room, { ...request, from: side.from })
    const sender = side.prefill.send(room, request)
    const pages = [Number(room % 30n), Number(room % 30n) + 1]
    side.decodeMemory.view(0, side.decodeMemory.bytes).fill(0xee)
    await receiver.reserve({ pages: Int32Array.from(pages) })
    await sender.reserved()
    await sender.write(chunkOf(tokens, 0, Int32Array.of(3, 4)))
    await Promise.all([sender.finish(), receiver.done])
    for (const [i, page] of pages.entries()) {
      const landed = pageOf(side.decodeMemory, side.decodeCache, page)
      expect(landed.equals(pageOf(side.prefillMemory, side.prefillCache, 3 + i))).toBe(true)
    }
    succeeded += 1
  }
  await whole()
  const enough = new AbortController()
  const requests = (async () => {
    while (!enough.signal.aborted) await whole()
  })()
  requests.catch(() => undefined)
  return {
    ...side,
    /** A few more have succeeded after what the test did. */
    async goesOn(): Promise<void> {
      const target = succeeded + 3
      while (succeeded < target) {
        await Promise.race([requests, new Promise((resolve) => setImmediate(resolve))])
      }
      enough.abort()
      await requests
    },
  }
}

async function decodeRank(side: { from: string; engine: Loopback }) {
  const peer = await RawDecode.greeted(side.from, side.engine)
  open.push(peer)
  return peer
}

// Without the token

test('who has another token gets no connection, and is told so', async () => {
  const side = await honestPair()
  const reason = await new Promise((resolve) => {
    const client = ControlClient.connect({
      endpoint: side.from,
      token: 'another token for tests',
      log: silentLog,
      onUp: () => {
        resolve('up')
      },
      onDown: resolve,
      onMessage: () => undefined,
    })
    open.push(client)
  })
  expect(reason).toMatchObject({ code: 'ERR_KVX_UNAUTHORIZED' })
  await side.goesOn()
})

test('a decode manager with another token fails its requests with the reason', async () => {
  const side = await honestPair()
  const foreign = await KVManager.open({
    role: 'decode',
    backend: side.engine.backend,
    ...side.decodeCache,
    memory: [side.decodeMemory],
    token: 'another token for tests',
  })
  open.push(foreign)
  const receiver = foreign.receive(1n, { from: side.from, tokens, digest })
  const error: unknown = await receiver.done.catch((cause: unknown) => cause)
  expect(isKvxError(error) && error.code).toMatch(/^ERR_KVX_(UNAUTHORIZED|BOOTSTRAP_UNREACHABLE)$/)
  expect((error as Error).message).toMatch(/token/)
  await side.goesOn()
})

// As somebody else

test('hello of a live incarnation without its session is refused', async () => {
  const side = await honestPair()
  const thief = new RawDecode(39)
  open.push(thief)
  await thief.connect(side.from, side.engine)
  thief.hello({ from: side.decode.incarnation })
  expect(await thief.hear('refuse')).toMatchObject({ code: 'ERR_KVX_SESSION_MISMATCH' })
  await side.goesOn()
})

test.each([
  ['hello', { session: '0'.repeat(32) }],
  ['abort', { ep: 1, code: 'ERR_KVX_ABORTED', text: '' }],
  ['ack', { ep: 1 }],
  ['query', { ep: 1 }],
] as const)(
  '%s for another incarnation than that of the connection is refused',
  async (k, fields) => {
    const side = await honestPair()
    const peer = await decodeRank(side)
    const from = side.decode.incarnation
    if (k === 'hello') peer.hello({ from, ...fields })
    else peer.say(k, { from, ...fields })
    expect(await peer.hear('refuse')).toMatchObject({ code: 'ERR_KVX_SENDER_MISMATCH' })
    await side.goesOn()
  },
)

test('an epoch of another decode rank cannot be named, and its number is only a number of one’s own', async () => {
  const side = await honestPair()
  const peer = await decodeRank(side)
  // A request that waits, so that there is something to abort.
  const waiting = side.decode.receive(5n, { from: side.from, tokens, digest })
  await waiting.reserve({ pages: Int32Array.of(35, 36) })
  const generation = side.engine.opened[1]
  const abort = { code: 'ERR_KVX_ABORTED', text: 'mine now' }
  for (let ep = 1; ep <= 20; ep += 1) {
    peer.say('abort', { ep, gen: generation, ...abort })
    expect(await peer.hear('refuse', ep)).toMatchObject({ code: 'ERR_KVX_EPOCH_MISMATCH' })
    peer.say('abort', { ep, ...abort })
    await peer.hear('drained', ep)
  }
  expect(waiting.error).toBeUndefined()
  waiting.abort()
  await side.goesOn()
})

/** A request to an honest prefill that waits for its leg, and a hostile prefill that decode is connected to as well. */
async function besideHostile() {
  const side = await honestPair()
  const hostile = await RawPrefill.open()
  open.push(hostile)
  const own = side.decode.receive(1n, { from: hostile.from, tokens, digest })
  await hostile.hear('hello')
  hostile.welcome()
  own.reserve({ pages: Int32Array.of(37, 38) }).catch(() => undefined)
  const ep = Number((await hostile.hear('reserve')).ep)
  const waiting = side.decode.receive(5n, { from: side.from, tokens, digest })
  await waiting.reserve({ pages: Int32Array.of(35, 36) })
  /** Also the epochs of the requests that run meanwhile, and some that were not given yet. */
  const about = (k: string, fields: object) => {
    for (let other = ep + 1; other <= ep + 40; other += 1) hostile.say(k, { ep: other, ...fields })
  }
  return { side, hostile, own, waiting, ep, about }
}

const failure = { code: 'ERR_KVX_INTERNAL', text: 'not yours' }

test.each<[string, object]>([
  ['complete', completeFields(2)],
  ['failed', failure],
])('%s for an epoch of another prefill rank is refused', async (k, fields) => {
  const { side, hostile, own, waiting, about } = await besideHostile()
  about(k, fields)
  expect(await hostile.hear('abort')).toMatchObject({ code: 'ERR_KVX_EPOCH_MISMATCH' })
  expect(waiting.error).toBeUndefined()
  waiting.abort()
  own.abort()
  await side.goesOn()
})

test.each<[string, object]>([
  ['drained', {}],
  ['refuse', failure],
  ['accept', { state: 'paired' }],
  ['ready', {}],
  ['progress', { units: 1 }],
  ['status', { state: 'over', units: 0 }],
])('%s for an epoch of another prefill rank changes nothing', async (k, fields) => {
  const { side, hostile, own, waiting, ep, about } = await besideHostile()
  about(k, fields)
  // On the same connection, so what was said before has been heard once this has.
  hostile.say('failed', { ep, ...failure })
  hostile.say('drained', { ep })
  await expect(own.done).rejects.toMatchObject({ code: 'ERR_KVX_INTERNAL' })
  expect(waiting.error).toBeUndefined()
  expect(waiting.poll()).toBe(KVPoll.WaitingForInput)
  const sender = side.prefill.send(5n, { tokens, digest })
  await sender.reserved()
  await sender.write(chunkOf(tokens, 0, Int32Array.of(3, 4)))
  await Promise.all([sender.finish(), waiting.done])
  await side.goesOn()
})

// Indices, sizes, regions

const list = (...pages: number[]) => packPages({ kv: Int32Array.from(pages) })
const other = (name: string, page: number) => ({
  pages: Object.fromEntries([
    ...Object.entries(list(1, 2)),
    [name, packPages({ one: Int32Array.of(page) }).one],
  ]),
})

test.each([
  ['a page below the pool', { pages: list(-1, 1) }],
  ['a page beyond the pool', { pages: list(1, 39) }],
  ['one page twice', { pages: list(4, 4) }],
  ['a page too many', { pages: list(1, 2, 3) }],
  ['a page too few', { pages: list(1) }],
  ['no pages of its component', { pages: {} }],
  ['a component that the cache does not have', other('mamba', 0)],
  ['a component of a name of Object.prototype', other('toString', 0)],
])('a reserve with %s is refused', async (_, fields) => {
  const side = await honestPair()
  const peer = await decodeRank(side)
  const about = { room: 77n, index: 0, tokens, digest, prefix: 0, digests: false }
  peer.say('reserve', { ep: 1, ...about, ...fields })
  expect(await peer.hear('refuse', 1)).toMatchObject({ code: 'ERR_KVX_PAGES_INVALID' })
  // Also when they come later.
  peer.say('reserve', { ep: 2, ...about })
  await peer.hear('accept', 2)
  peer.say('pages', { ep: 2, ...fields })
  expect(await peer.hear('failed', 2)).toMatchObject({ code: 'ERR_KVX_PAGES_INVALID' })
  await side.goesOn()
})

const withPlaced = ({ shape, place }: Cache, change: Partial<TensorPlace>): Cache => ({
  shape,
  place: {
    ...place,
    tensors: place.tensors.map((tensor, i) => (i === 0 ? { ...tensor, ...change } : tensor)),
  },
})
const withTensor = ({ shape, place }: Cache, change: Partial<TensorShape>): Cache => ({
  shape: {
    ...shape,
    components: shape.components.map((component) => ({
      ...component,
      tensors: component.tensors.map((tensor, i) => (i === 0 ? { ...tensor, ...change } : tensor)),
    })),
  },
  place,
})
const named = (name: string) => (cache: Cache) => ({
  shape: {
    ...cache.shape,
    components: cache.shape.components.map((component) => ({ ...component, name })),
  },
  place: {
    components: Object.fromEntries([[name, cache.place.components.kv!]]),
    tensors: cache.place.tensors.map((tensor) => ({ ...tensor, component: name })),
  },
})

const oneRun = (packed: PackedPlace, change: Partial<PackedPlace['tensors'][number]>) => ({
  ...packed,
  tensors: packed.tensors.map((run, i) => (i === 0 ? { ...run, ...change } : run)),
})

const hostileCaches: [string, (cache: Cache) => { shape: object; place: object }, string?][] = [
  ['a region that it has not registered', (cache) => onWire(withPlaced(cache, { region: 1 }))],
  ['a place beyond 2^53', (cache) => onWire(withPlaced(cache, { base: Number.MAX_SAFE_INTEGER }))],
  ['pages of another size than its heads', (cache) => onWire(withPlaced(cache, { pageBytes: 1 }))],
  ['tensors that overlap', (cache) => onWire(withPlaced(cache, { base: 1 }))],
  ['a layer that the model does not have', (cache) => onWire(withTensor(cache, { layer: 3 }))],
  [
    'a tensor twice',
    ({ shape, place }) =>
      onWire({ shape, place: { ...place, tensors: [...place.tensors, ...place.tensors] } }),
  ],
  [
    'a tensor that it does not place',
    ({ shape, place }) => onWire({ shape, place: { ...place, tensors: place.tensors.slice(1) } }),
  ],
  [
    'a tensor of a component that there is not',
    (cache) => onWire(withPlaced(cache, { component: 'swa' })),
  ],
  [
    'no pages of its component',
    ({ shape, place }) => onWire({ shape, place: { ...place, components: {} } }),
  ],
  ['elements that do not divide a unit', (cache) => onWire(withTensor(cache, { elementBytes: 3 }))],
  [
    'bases that fall below zero',
    ({ shape, place }) => {
      const packed = onWire({ shape, place })
      return { ...packed, place: oneRun(packed.place, { step: [1, 0, -1_000_000] }) }
    },
  ],
  [
    'layers that fall below zero',
    ({ shape, place }) => {
      const packed = onWire({ shape, place })
      return { ...packed, place: oneRun(packed.place, { step: [-1, 0, 0] }) }
    },
  ],
  [
    'bases that grow beyond 2^53',
    ({ shape, place }) => {
      const packed = onWire({ shape, place })
      return { ...packed, place: oneRun(packed.place, { step: [1, 0, 2 ** 53 - 1] }) }
    },
  ],
  ['a component of the name __proto__', (cache) => onWire(named('__proto__')(cache))],
  ['a component of the name constructor', (cache) => onWire(named('constructor')(cache))],
  [
    'more pages than can be named',
    ({ shape, place }) =>
      onWire({ shape, place: { ...place, components: { kv: { pageTokens, pages: 2 ** 40 } } } }),
    'ERR_KVX_PROTOCOL',
  ],
]
test.each(hostileCaches)(
  'a cache with %s is refused at hello',
  async (_, change, code = 'ERR_KVX_LAYOUT_INVALID') => {
    const side = await honestPair()
    const peer = new RawDecode(39)
    open.push(peer)
    await peer.connect(side.from, side.engine)
    peer.hello(change(peer.cache))
    expect(await peer.hear('refuse')).toMatchObject({ code })
    // The same from the other side.
    const hostile = await RawPrefill.open()
    open.push(hostile)
    const deadlines = { hello: 1_000 }
    const receiver = side.decode.receive(1n, { from: hostile.from, tokens, digest, deadlines })
    await hostile.hear('hello')
    const cache = change(hostile.cache)
    const isRegion = JSON.stringify(cache.place).includes('"first":[0,1,')
    if (isRegion) {
      // Which regions prefill reads from is its own affair.
      receiver.abort()
    } else {
      hostile.welcome(cache)
      // What cannot be read is as if it had not been said.
      const told = code === 'ERR_KVX_PROTOCOL' ? 'ERR_KVX_TIMEOUT' : code
      await expect(receiver.done).rejects.toMatchObject({ code: told })
    }
    await side.goesOn()
  },
)

test('pages beyond the memory that was registered are refused by the engine, where its size is known', async () => {
  const bytes = memoryFor(smallCache(32)).bytes
  const side = await openPair({
    engine: { backend: shm } as never,
    prefill: { memory: [allocate(bytes)] },
    decode: { memory: [allocate(memoryFor(smallCache(39)).bytes)] },
  })
  open.push(side)
  // It registers a tenth of what it describes: the first tensor fits, the others lie behind the end.
  const peer = new RawDecode(39, allocate(Math.ceil(bytes / 10)))
  open.push(peer)
  await peer.connect(side.from, { backend: shm })
  peer.hello()
  await peer.hear('welcome')
  peer.reserve(1, 9n, digest, tokens, [1, 2])
  const sender = side.prefill.send(9n, { tokens, digest })
  await sender.reserved()
  await sender.write(chunkOf(tokens, 0, Int32Array.of(3, 4))).catch(() => undefined)
  const refused = { code: 'ERR_KVX_PLAN_INVALID' }
  await expect(sender.finish()).rejects.toMatchObject(refused)
  expect(await peer.hear('failed', 1)).toMatchObject(refused)
  await peer.hear('drained', 1)
  await sender.settled
  // An honest request over the same engine.
  const receiver = side.decode.receive(10n, { from: side.from, tokens, digest })
  const honest = side.prefill.send(10n, { tokens, digest })
  await receiver.reserve({ pages: Int32Array.of(7, 8) })
  await honest.reserved()
  await honest.write(chunkOf(tokens, 0, Int32Array.of(3, 4)))
  await Promise.all([honest.finish(), receiver.done])
})

// What a prefill rank says of its work

/** A request to a hostile prefill rank that has accepted it. */
async function accepted(): Promise<{
  side: Awaited<ReturnType<typeof honestPair>>
  hostile: RawPrefill
  receiver: KVReceiver
  ep: number
}> {
  const side = await honestPair()
  const hostile = await RawPrefill.open()
  open.push(hostile)
  const receiver = side.decode.receive(1n, { from: hostile.from, tokens, digest })
  await hostile.hear('hello')
  hostile.welcome()
  const reserved = receiver.reserve({ pages: Int32Array.of(37, 38) })
  const ep = Number((await hostile.hear('reserve')).ep)
  hostile.say('accept', { ep, state: 'paired' })
  await reserved
  return { side, hostile, receiver, ep }
}

test.each<[string, object, string]>([
  ['aux larger than agreed', completeFields(2, { blob: new Uint8Array(1_001) }), 'AUX_TOO_LARGE'],
  ['a page too few', completeFields(1), 'MANIFEST_MISMATCH'],
  ['a page too many', completeFields(3), 'MANIFEST_MISMATCH'],
])('complete with %s fails the request and is told to prefill', async (_, fields, code) => {
  const { side, hostile, receiver, ep } = await accepted()
  hostile.say('complete', { ep, ...fields })
  await expect(receiver.done).rejects.toMatchObject({ code: `ERR_KVX_${code}`, phase: 'complete' })
  expect(await hostile.hear('abort')).toMatchObject({ ep, code: `ERR_KVX_${code}` })
  await side.goesOn()
})

test('aux beyond the own limit is refused although prefill announced more', async () => {
  const side = await honestPair()
  const hostile = await RawPrefill.open()
  open.push(hostile)
  const receiver = side.decode.receive(1n, { from: hostile.from, tokens, digest })
  await hostile.hear('hello')
  hostile.welcome({ limits: { parked: 64, auxBytes: Number.MAX_SAFE_INTEGER } })
  receiver.reserve({ pages: Int32Array.of(37, 38) }).catch(() => undefined)
  const { ep } = await hostile.hear('reserve')
  const blob = new Uint8Array((1 << 20) + 1)
  hostile.say('complete', { ep, ...completeFields(2, { blob }) })
  await expect(receiver.done).rejects.toMatchObject({ code: 'ERR_KVX_AUX_TOO_LARGE' })
  await side.goesOn()
})
