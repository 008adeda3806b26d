/**
 * What becomes of a reference to a transfer that is unknown, out of range, consumed, stale or expired? An error
 * of its own code, or the right bytes; never other bytes, and never a success without any.
 */
import { afterEach, expect, test } from 'vitest'
import { promptDigest } from '../src/shape/index.ts'
import type { KVManagerOptions, KVReceiver } from '../src/manager/index.ts'
import { packPages } from '../src/protocol/index.ts'
import { chunkOf, fill, openPair, pageOf, pageTokens, type PairOptions } from './support/pair.ts'
import { RawDecode } from './support/raw-decode.ts'

const marker = 0xee
const promptA = promptDigest([1, 2, 3, 4, 5, 6, 7, 8])
const promptB = promptDigest([1, 2, 3, 4, 5, 6, 7, 9])
const tokens = 2 * pageTokens

const open: { close(): Promise<void> }[] = []
afterEach(async () => {
  for (const one of open.splice(0).reverse()) await one.close()
})

/** Prefill holds bytes that tell their place; decode holds nothing but the marker. */
async function pair(options: PairOptions = {}) {
  const made = await openPair(options)
  open.push(made)
  fill(made.prefillMemory, 7)
  made.decodeMemory.view(0, made.decodeMemory.bytes).fill(marker)
  return made
}
type Pair = Awaited<ReturnType<typeof pair>>

async function raw(side: Pair) {
  const peer = await RawDecode.greeted(side.from, side.engine)
  open.push(peer)
  peer.memory.view(0, peer.memory.bytes).fill(marker)
  return peer
}

const sourcePages = Int32Array.of(3, 4)

/** The prefill leg of a whole request. */
async function prefillLeg(side: Pair, room: bigint, digest = promptA) {
  const sender = side.prefill.send(room, { tokens, digest })
  await sender.reserved()
  await sender.write(chunkOf(tokens, 0, sourcePages))
  return sender.finish({ aux: { firstToken: 42 } })
}

function decodeLeg(side: Pair, room: bigint, options: Partial<KVManagerOptions> = {}) {
  const { deadlines } = options
  return side.decode.receive(room, {
    from: side.from,
    tokens,
    digest: promptA,
    ...(deadlines && { deadlines }),
  })
}

/** Why a leg with these destination pages failed. */
async function failure(receiver: KVReceiver, pages: number[]): Promise<unknown> {
  await receiver.reserve({ pages: Int32Array.from(pages) }).catch(() => undefined)
  return receiver.done.then(
    () => 'success',
    (error: unknown) => error,
  )
}

const untouched = (memory: { bytes: number; view(at: number, length: number): Uint8Array }) =>
  memory.view(0, memory.bytes).every((byte) => byte === marker)

function expectBytes(side: Pair, pages: number[]): void {
  for (const [i, page] of pages.entries()) {
    const landed = pageOf(side.decodeMemory, side.decodeCache, page)
    const sent = pageOf(side.prefillMemory, side.prefillCache, sourcePages[i] ?? -1)
    expect(landed.equals(sent)).toBe(true)
  }
}

// Unknown

test('a decode leg whose room nobody sends ends in an error that says so, and its pages stay as they were', async () => {
  const side = await pair()
  const error = await failure(decodeLeg(side, 1n, { deadlines: { pairing: 150 } }), [5, 6])
  expect(error).toMatchObject({ code: 'ERR_KVX_ROOM_UNKNOWN', phase: 'parked' })
  expect(untouched(side.decodeMemory)).toBe(true)
})

test.each([
  ['abort', { code: 'ERR_KVX_ABORTED', text: '' }, 'drained'],
  ['query', {}, 'status'],
  ['pages', { pages: packPages({ kv: Int32Array.of(1) }) }, undefined],
  ['ack', {}, undefined],
] as const)(
  'the message %s about a transfer that never was begins none',
  async (kind, fields, answer) => {
    const side = await pair()
    const peer = await raw(side)
    peer.say(kind, { ep: 9, ...fields })
    if (answer !== undefined) await peer.hear(answer, 9)
    peer.say('query', { ep: 9 })
    expect(await peer.hear('status', 9)).toMatchObject({ state: 'over' })
    // What was named once is over for ever.
    peer.reserve(9, 1n, promptA, tokens, [5, 6])
    expect(await peer.hear('refuse', 9)).toMatchObject({ code: 'ERR_KVX_STALE' })
  },
)

// Out of range

const outside = { below: -1, above: 39, 'at the end of int32': 2 ** 31 - 1 }

test.each(Object.entries(outside))(
  'a destination page %s the pool is refused where it is given',
  async (_where, page) => {
    const side = await pair()
    const receiver = decodeLeg(side, 1n)
    await expect(receiver.reserve({ pages: Int32Array.of(5, page) })).rejects.toMatchObject({
      code: 'ERR_KVX_INVALID_ARGUMENT',
      phase: 'reserve',
    })
    receiver.abort()
    expect(untouched(side.decodeMemory)).toBe(true)
  },
)

test.each([
  ...Object.entries(outside).map(([where, page]) => [where, [5, page]] as const),
  ['twice in', [5, 5]] as const,
])(
  'a reserve with a page %s the pool is refused by prefill, which writes nothing',
  async (_where, pages) => {
    const side = await pair()
    const peer = await raw(side)
    let writes = 0
    side.engine.faults.beforeWrite = () => {
      writes++
    }
    const leg = prefillLeg(side, 1n)
    peer.reserve(1, 1n, promptA, tokens, [...pages])
    expect(await peer.hear('refuse', 1)).toMatchObject({ code: 'ERR_KVX_PAGES_INVALID' })
    expect(writes).toBe(0)
    // The prefill leg is not harmed by it: an honest reserve is served.
    peer.reserve(2, 1n, promptA, tokens, [5, 6])
    await peer.hear('complete', 2)
    peer.say('ack', { ep: 2 })
    await leg
  },
)

test('pages that are given late are checked like those that come with the reserve', async () => {
  const side = await pair()
  const peer = await raw(side)
  const leg = prefillLeg(side, 1n)
  leg.catch(() => undefined)
  peer.say('reserve', {
    ep: 1,
    room: 1n,
    index: 0,
    tokens,
    digest: promptA,
    prefix: 0,
    digests: false,
  })
  await peer.hear('ready', 1)
  peer.say('pages', { ep: 1, pages: packPages({ kv: Int32Array.of(5, 39) }) })
  expect(await peer.hear('failed', 1)).toMatchObject({ code: 'ERR_KVX_PAGES_INVALID' })
  await expect(leg).rejects.toMatchObject({ code: 'ERR_KVX_PAGES_INVALID' })
  expect(untouched(peer.memory)).toBe(true)
})

test.each(Object.entries({ below: -1, above: 32 }))(
  'a source page %s the pool is refused where it is given',
  async (_where, page) => {
    const side = await pair()
    const receiver = decodeLeg(side, 1n)
    const sender = side.prefill.send(1n, { tokens, digest: promptA })
    await receiver.reserve({ pages: Int32Array.of(5, 6) })
    await sender.reserved()
    await expect(sender.write(chunkOf(tokens, 0, Int32Array.of(3, page)))).rejects.toMatchObject({
      code: 'ERR_KVX_INVALID_ARGUMENT',
    })
    expect(untouched(side.decodeMemory)).toBe(true)
    receiver.abort()
    await receiver.done.catch(() => undefined)
  },
)

// Consumed

test('a transfer that has been consumed is over: its epoch is refused, and nothing is written again', async () => {
  const side = await pair()
  const peer = await raw(side)
  const leg = prefillLeg(side, 1n)
  peer.reserve(1, 1n, promptA, tokens, [5, 6])
  await peer.hear('complete', 1)
  peer.say('ack', { ep: 1 })
  await leg
  peer.memory.view(0, peer.memory.bytes).fill(marker)
  const since = peer.heard.length
  const again = prefillLeg(side, 1n)
  again.catch(() => undefined)
  peer.reserve(1, 1n, promptA, tokens, [5, 6])
  expect(await peer.hear('refuse', 1, since)).toMatchObject({ code: 'ERR_KVX_STALE' })
  peer.say('query', { ep: 1 })
  expect(await peer.hear('status', 1, since)).toMatchObject({ state: 'over' })
  expect(untouched(peer.memory)).toBe(true)
})

test.each(['prefill', 'decode'] as const)(
  'a room that has been consumed is told as such when decode alone asks for it again and %s gives up',
  async (role) => {
    const deadlines = { pairing: 150 }
    const side = await pair(role === 'prefill' ? { prefill: { deadlines } } : {})
    const first = decodeLeg(side, 1n)
    const leg = prefillLeg(side, 1n)
    await first.reserve({ pages: Int32Array.of(5, 6) })
    await Promise.all([first.done, leg])
    side.decodeMemory.view(0, side.decodeMemory.bytes).fill(marker)
    const again = decodeLeg(side, 1n, role === 'decode' ? { deadlines } : {})
    expect(await failure(again, [5, 6])).toMatchObject({
      code: 'ERR_KVX_ROOM_CONSUMED',
      phase: 'parked',
    })
    expect(untouched(side.decodeMemory)).toBe(true)
  },
)

test('a consumed room may be used by both sides again, and the bytes of the second time arrive', async () => {
  const side = await pair()
  for (const seed of [7, 99]) {
    fill(side.prefillMemory, seed)
    const receiver = decodeLeg(side, 1n)
    const leg = prefillLeg(side, 1n)
    await receiver.reserve({ pages: Int32Array.of(5, 6) })
    await Promise.all([receiver.done, leg])
    expectBytes(side, [5, 6])
  }
})

test('a room that is not consumed yet belongs to its request, on both sides', async () => {
  const side = await pair()
  const receiver = decodeLeg(side, 1n)
  receiver.done.catch(() => undefined)
  expect(() => decodeLeg(side, 1n)).toThrow(
    expect.objectContaining({ code: 'ERR_KVX_ROOM_IN_USE' }) as Error,
  )
  const peer = await raw(side)
  peer.reserve(1, 2n, promptA, tokens, [5, 6])
  await peer.hear('accept', 1)
  peer.reserve(2, 2n, promptA, tokens, [7, 8])
  expect(await peer.hear('refuse', 2)).toMatchObject({ code: 'ERR_KVX_ROOM_IN_USE' })
})

// Stale

test('a room that prefill has given to another prompt meanwhile fails both legs, and no byte moves', async () => {
  const side = await pair()
  const first = decodeLeg(side, 1n)
  await Promise.all([first.reserve({ pages: Int32Array.of(5, 6) }), prefillLeg(side, 1n)])
  await first.done
  side.decodeMemory.view(0, side.decodeMemory.bytes).fill(marker)
  const leg = prefillLeg(side, 1n, promptB)
  leg.catch(() => undefined)
  expect(await failure(decodeLeg(side, 1n), [5, 6])).toMatchObject({
    code: 'ERR_KVX_PROMPT_MISMATCH',
    phase: 'reserve',
  })
  await expect(leg).rejects.toMatchObject({ code: 'ERR_KVX_PROMPT_MISMATCH' })
  expect(untouched(side.decodeMemory)).toBe(true)
})

test('an epoch below one that was seen is refused, although it was never used', async () => {
  const side = await pair()
  const peer = await raw(side)
  const leg = prefillLeg(side, 1n)
  peer.say('query', { ep: 5 })
  await peer.hear('status', 5)
  peer.reserve(3, 1n, promptA, tokens, [5, 6])
  expect(await peer.hear('refuse', 3)).toMatchObject({ code: 'ERR_KVX_STALE' })
  expect(untouched(peer.memory)).toBe(true)
  peer.reserve(6, 1n, promptA, tokens, [5, 6])
  await peer.hear('complete', 6)
  peer.say('ack', { ep: 6 })
  await leg
})

test('the pages of an aborted transfer are not written after prefill has said drained, whatever is sent for it', async () => {
  const side = await pair()
  const peer = await raw(side)
  peer.reserve(1, 1n, promptA, tokens, [5, 6])
  await peer.hear('accept', 1)
  peer.say('abort', { ep: 1, code: 'ERR_KVX_ABORTED', text: 'the client went away' })
  await peer.hear('drained', 1)
  // Now the pages may belong to another request.
  const leg = side.prefill.send(1n, { tokens, digest: promptA, deadlines: { pairing: 300 } })
  peer.say('pages', { ep: 1, pages: packPages({ kv: Int32Array.of(5, 6) }) })
  peer.reserve(1, 1n, promptA, tokens, [5, 6])
  await expect(leg.reserved()).rejects.toMatchObject({ code: 'ERR_KVX_TIMEOUT' })
  expect(untouched(peer.memory)).toBe(true)
})

test('a message for an earlier process at this address, or of an earlier process of the sender, changes nothing', async () => {
  const side = await pair()
  const peer = await raw(side)
  const leg = prefillLeg(side, 1n)
  const earlier = 'ab'.repeat(16)
  const reserve = { room: 1n, index: 0, tokens, digest: promptA, prefix: 0, digests: false }
  const pages = packPages({ kv: Int32Array.of(5, 6) })
  peer.say('reserve', { ...reserve, pages, ep: 1, to: earlier })
  peer.say('reserve', { ...reserve, pages, ep: 2, from: earlier })
  peer.say('reserve', { ...reserve, pages, ep: 3, gen: earlier })
  peer.say('ping', { live: 0 })
  await peer.hear('pong')
  expect(untouched(peer.memory)).toBe(true)
  // All three left the prefill leg waiting for its true reserve.
  peer.reserve(4, 1n, promptA, tokens, [5, 6])
  await peer.hear('complete', 4)
  peer.say('ack', { ep: 4 })
  await leg
})

test('a hello that is meant for an earlier process at this address is refused as stale', async () => {
  const side = await pair()
  const peer = new RawDecode(39)
  open.push(peer)
  await peer.connect(side.from, side.engine)
  peer.hello({ to: 'ab'.repeat(16) })
  expect(await peer.hear('refuse')).toMatchObject({ code: 'ERR_KVX_STALE' })
})

// Expired

test('a prefill leg that has expired refuses decode with its own first cause, at once', async () => {
  const side = await pair()
  const sender = side.prefill.send(1n, { tokens, digest: promptA, deadlines: { pairing: 100 } })
  await expect(sender.reserved()).rejects.toMatchObject({ code: 'ERR_KVX_TIMEOUT' })
  const error = await failure(decodeLeg(side, 1n), [5, 6])
  expect(error).toMatchObject({ code: 'ERR_KVX_TIMEOUT', phase: 'reserve' })
  expect((error as Error).message).toBe(sender.error?.message)
  expect(untouched(side.decodeMemory)).toBe(true)
})

test('a decode leg that has expired does not pair with a prefill leg that comes later', async () => {
  const side = await pair({ prefill: { deadlines: { pairing: 150 } } })
  const error = await failure(decodeLeg(side, 1n), [5, 6])
  expect(error).toMatchObject({ code: 'ERR_KVX_ROOM_UNKNOWN', phase: 'parked' })
  const late = prefillLeg(side, 1n)
  await expect(late).rejects.toMatchObject({ code: 'ERR_KVX_TIMEOUT', phase: 'reserve' })
  expect(untouched(side.decodeMemory)).toBe(true)
})
