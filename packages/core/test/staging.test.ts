/** Short runs take their way through staging memory: from page to page over an engine that is faster so. */
import { afterEach, expect, test } from 'vitest'
import { KvxError } from '@kvx/contract'
import { promptDigest } from '../src/shape/index.ts'
import { Deferred } from '../src/deferred.ts'
import { Loopback } from './support/loopback.ts'
import {
  chunkOf,
  fill,
  openLegs,
  openPair,
  pageOf,
  pageTokens,
  wholePageBytes,
  type PairOptions,
} from './support/pair.ts'
import { RawPrefill } from './support/raw-prefill.ts'

const digest = promptDigest([1, 2, 3])
const shortRun = 4_096

const open: { close(): Promise<void> | void }[] = []
afterEach(async () => {
  for (const one of open.splice(0).reverse()) await one.close()
})

async function pair(options: PairOptions = {}) {
  const made = await openPair({ engine: new Loopback('exit', shortRun), ...options })
  open.push(made)
  fill(made.prefillMemory, 7)
  made.decodeMemory.view(0, made.decodeMemory.bytes).fill(0xee)
  return made
}

type Pair = Awaited<ReturnType<typeof pair>>

const source = [3, 9, 4, 12, 30, 7]
const destination = [20, 2, 31, 5, 6, 11]
const tokens = source.length * pageTokens

async function move(side: Pair, room: bigint, [from, to] = [source, destination]) {
  const request = { tokens: from.length * pageTokens, digest }
  const legs = await openLegs(side, room, request, to)
  await legs.sender.write(chunkOf(request.tokens, 0, from))
  const [sent, { report }] = await Promise.all([legs.sender.finish(), legs.receiver.done])
  return { sent, report }
}

function expectArrived(
  { decodeMemory, decodeCache, prefillMemory, prefillCache }: Pair,
  [from, to] = [source, destination],
) {
  for (const [i, page] of to.entries()) {
    const landed = pageOf(decodeMemory, decodeCache, page)
    expect(landed.equals(pageOf(prefillMemory, prefillCache, from[i]!))).toBe(true)
  }
}

function bays({ prefill, decode }: Pair): number {
  const managers = [prefill, decode] as unknown as { state: { bays: { taken: boolean[] } } }[]
  return managers.flatMap(({ state }) => state.bays.taken).filter(Boolean).length
}

test('pages with short runs go through one long run, arrive byte for byte, and are told as staged', async () => {
  const side = await pair({ decode: { verifyKV: true } })
  const { sent, report } = await move(side, 1n)
  const bytes = source.length * wholePageBytes
  expect([sent.bytes, sent.stagedBytes, report.stagedBytes]).toEqual([bytes, bytes, bytes])
  expect([side.engine.gathers, side.engine.writes, side.engine.scatters]).toEqual([1, 1, 1])
  expectArrived(side)
  expect(bays(side)).toBe(0)
})

test('what is larger than a bay goes through several', async () => {
  // Bays of 4 KiB, into which ten pages of the prompt fit.
  const several = await pair({ prefill: { limits: { stagingBytes: 16 * 4_096 } }, pages: 64 })
  const pages = Array.from({ length: 50 }, (_, i) => (i * 7) % 64)
  const { sent } = await move(several, 1n, [pages, pages.toReversed()])
  expect(sent.bytes).toBe(50 * wholePageBytes)
  expect(sent.stagedBytes).toBe(sent.bytes)
  // In halves until they fit: eight of six or seven pages.
  expect(several.engine.gathers).toBe(8)
  expectArrived(several, [pages, pages.toReversed()])
})

test.each([
  ['prefill', { prefill: { limits: { stagingBytes: 0 } } }],
  ['decode', { decode: { limits: { stagingBytes: 0 } } }],
])('without staging memory at %s every run is written as it is', async (_side, options) => {
  const side = await pair(options)
  const { sent, report } = await move(side, 1n)
  expect([sent.stagedBytes, report.stagedBytes, side.engine.gathers]).toEqual([0, 0, 0])
  expectArrived(side)
})

test('an engine that moves short runs well is left alone', async () => {
  const side = await pair({ engine: new Loopback('exit', 0) })
  const { sent } = await move(side, 1n)
  expect([sent.stagedBytes, side.engine.gathers]).toEqual([0, 0])
  expectArrived(side)
})

test.each([
  ['gather', 'beforeGather'],
  ['scatter', 'beforeScatter'],
] as const)(
  'when a copy fails (%s) both sides learn of it, and nothing is held',
  async (_name, fault) => {
    const side = await pair()
    side.engine.faults[fault] = () => {
      throw new KvxError('ERR_KVX_MEMORY', 'the memory is broken')
    }
    const legs = await openLegs(side, 1n, { tokens, digest }, destination)
    await legs.sender.write(chunkOf(tokens, 0, source)).catch(() => undefined)
    const ends = await Promise.allSettled([legs.sender.finish(), legs.receiver.done])
    expect(ends.map((end) => end.status === 'rejected' && (end.reason as KvxError).code)).toEqual([
      'ERR_KVX_MEMORY',
      'ERR_KVX_MEMORY',
    ])
    await Promise.all([legs.sender.settled, legs.receiver.settled])
    expect(bays(side)).toBe(0)
    side.engine.faults[fault] = () => undefined
    await move(side, 2n)
    expectArrived(side)
  },
)

test.each([
  ['prefill while it gathers', 'beforeGather', 'sender'],
  ['decode while prefill gathers', 'beforeGather', 'receiver'],
  ['prefill while it writes', 'beforeWrite', 'sender'],
  ['decode while prefill writes', 'beforeWrite', 'receiver'],
  ['prefill while decode scatters', 'beforeScatter', 'sender'],
  ['decode while it scatters', 'beforeScatter', 'receiver'],
] as const)(
  'pages are held until the copy has ended when a request is aborted by %s',
  async (_name, fault, who) => {
    const side = await pair()
    const [begun, held] = [new Deferred<void>(), new Deferred<void>()]
    side.engine.faults[fault] = () => {
      begun.resolve()
      return held.promise
    }
    const legs = await openLegs(side, 1n, { tokens, digest }, destination)
    await legs.sender.write(chunkOf(tokens, 0, source))
    const ends = Promise.allSettled([legs.sender.finish(), legs.receiver.done])
    await begun.promise
    let settled = false
    const owner = fault === 'beforeScatter' ? legs.receiver : legs.sender
    void owner.settled.then(() => (settled = true))
    legs[who].abort('enough')
    await ends
    // A whole request of other pages may go its way meanwhile, unless copies are held.
    await new Promise(setImmediate)
    expect(settled).toBe(false)
    held.resolve()
    side.engine.faults[fault] = () => undefined
    await Promise.all([legs.sender.settled, legs.receiver.settled])
    expect(bays(side)).toBe(0)
    await move(side, 2n)
    expectArrived(side)
  },
)

const parts = [{ component: 'kv', layers: [0, 3], first: 0, count: 2 }]
const bytes = 2 * wholePageBytes

test.each([
  ['more bytes than a bay has', { stage: { bytes: 1 << 30 } }],
  ['a bay far ahead of those that it has', { stage: { load: 9 } }],
  ['that a load lies in a bay which it never had', { staged: { load: 2 } }],
  ['fewer pages than it had a bay for', { staged: { parts: [{ ...parts[0], count: 1 }] } }],
  ['pages behind the end of the prompt', { staged: { parts: [{ ...parts[0], first: 1 }] } }],
  ['more pages than there are numbers', { staged: { parts: [{ ...parts[0], count: 2 ** 40 }] } }],
  [
    'pages of a component that there is not',
    { staged: { parts: [{ ...parts[0], component: 'x' }] } },
  ],
  [
    'pages as if they were slots',
    { staged: { parts: [{ component: 'kv', layers: [0, 3], count: 2 }] } },
  ],
  ['one component twice', { staged: { parts: [...parts, ...parts] } }],
  ['no part at all', { staged: { parts: [] } }],
])('prefill that says %s fails its own request, and nothing is copied', async (_name, lie) => {
  const side = await pair()
  const raw = await RawPrefill.open()
  open.push(raw)
  const request = { tokens: 2 * pageTokens, digest, from: raw.from }
  const receiver = side.decode.receive(1n, request)
  await raw.hear('hello')
  raw.welcome()
  void receiver.reserve({ pages: Int32Array.of(1, 2) }).catch(() => undefined)
  const { ep } = (await raw.hear('reserve')) as unknown as { ep: number }
  raw.say('stage', { ep, load: 1, bytes, ms: 5_000, ...('stage' in lie ? lie.stage : {}) })
  if ('staged' in lie) {
    await raw.hear('bay')
    raw.say('staged', { ep, load: 1, parts, ...lie.staged })
  }
  await expect(receiver.done).rejects.toMatchObject({ code: 'ERR_KVX_PROTOCOL', peer: 'raw' })
  await raw.hear('abort')
  await receiver.settled
  expect([side.engine.scatters, bays(side)]).toEqual([0, 0])
  await move(side, 2n)
  expectArrived(side)
})

test('prefill that says complete while a part is in its bay fails its request, which settles when it has said drained', async () => {
  const side = await pair()
  const raw = await RawPrefill.open()
  open.push(raw)
  const receiver = side.decode.receive(1n, { tokens: 2 * pageTokens, digest, from: raw.from })
  await raw.hear('hello')
  raw.welcome()
  void receiver.reserve({ pages: Int32Array.of(1, 2) }).catch(() => undefined)
  const { ep } = (await raw.hear('reserve')) as unknown as { ep: number }
  raw.say('stage', { ep, load: 1, bytes, ms: 5_000 })
  await raw.hear('bay')
  const units = 2 * pageTokens * 3
  raw.say('complete', {
    ep,
    manifest: { parts: { kv: { units, bytes } }, chunks: 1, ms: 1 },
    aux: { firstToken: 1 },
  })
  await expect(receiver.done).rejects.toMatchObject({ code: 'ERR_KVX_MANIFEST_MISMATCH' })
  await receiver.settled
  expect(bays(side)).toBe(0)
})
