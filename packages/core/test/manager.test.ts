import { afterEach, expect, test } from 'vitest'
import { promptDigest } from '../src/shape/index.ts'
import { KVPoll } from '../src/manager/index.ts'
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
import { KVManager } from '../src/manager/index.ts'
import { RawPrefill } from './support/raw-prefill.ts'

const open: { close(): Promise<void> }[] = []
afterEach(async () => {
  for (const one of open.splice(0)) await one.close()
})

async function pair(options: PairOptions = {}) {
  const made = await openPair(options)
  open.push(made)
  fill(made.prefillMemory, 7)
  return made
}

const ids = (count: number) => Array.from({ length: count }, (_, i) => i + 100)
const prompt = (tokens: number) => ({ tokens, digest: promptDigest(ids(tokens)) })

test('a prompt crosses in chunks, byte for byte, and both sides agree on what moved', async () => {
  const { prefill, decode, from, ...side } = await pair()
  const tokens = 5 * pageTokens + 1
  const digest = promptDigest(ids(tokens))
  const receiver = decode.receive(9n, { from, tokens, digest })
  const sender = prefill.send(9n, { tokens, digest })
  expect(sender.poll()).toBe(KVPoll.Bootstrapping)
  const destination = Int32Array.of(30, 4, 5, 6, 20, 21)
  const source = Int32Array.of(1, 2, 3, 9, 8, 31)
  await receiver.reserve({ pages: destination })
  expect(await sender.reserved()).toEqual({ prefixTokens: 0, firstTokens: { kv: 0 } })
  await sender.write(chunkOf(tokens, 0, source.subarray(0, 2)))
  await sender.write(chunkOf(tokens, 2, source.subarray(2)))
  const sent = await sender.finish({ aux: { firstToken: 42, blob: Buffer.from('x') } })
  const { aux, report } = await receiver.done
  expect(aux.firstToken).toBe(42)
  expect(Buffer.from(aux.blob ?? []).toString()).toBe('x')
  expect(report).toMatchObject({ pages: 6, bytes: 6 * wholePageBytes, chunks: 2 })
  expect(sent).toMatchObject({ pages: 6, bytes: 6 * wholePageBytes, chunks: 2 })
  await Promise.all([sender.settled, receiver.settled])
  expect([sender.poll(), receiver.poll()]).toEqual([KVPoll.Success, KVPoll.Success])
  for (const [i, page] of destination.entries()) {
    const landed = pageOf(side.decodeMemory, side.decodeCache, page)
    expect(landed.equals(pageOf(side.prefillMemory, side.prefillCache, source[i] ?? 0))).toBe(true)
  }
})

test('what a chunk must come after reaches the engine with its write, and no other', async () => {
  const engine = new Loopback()
  engine.after = true
  const { prefill, decode, from } = await pair({ engine })
  const { sender, receiver } = await openLegs({ prefill, decode, from }, 1n, prompt(12), [1, 2, 3])
  await sender.write({ ...chunkOf(12, 0, [4]), after: { event: 7n } })
  await sender.write({ ...chunkOf(12, 1, [5]), after: { stream: 8n } })
  await sender.write(chunkOf(12, 2, [6]))
  await sender.finish({})
  await receiver.done
  expect(engine.waits).toEqual([{ event: 7n }, { stream: 8n }, undefined])
})

test('an engine that cannot wait for a device is given nothing to wait for: the call is refused', async () => {
  const { prefill, decode, from, engine } = await pair()
  const { sender } = await openLegs({ prefill, decode, from }, 1n, prompt(4), [1])
  const wrong = { code: 'ERR_KVX_INVALID_ARGUMENT' }
  const waiting = sender.write({ ...chunkOf(4, 0, [0]), after: { event: 7n } })
  await expect(waiting).rejects.toMatchObject(wrong)
  await expect(waiting).rejects.toThrow(/'loopback' cannot wait for the work of a device/)
  await expect(sender.finish({ after: { event: 7n } })).rejects.toMatchObject(wrong)
  for (const after of [
    { event: 7 },
    { event: 7n, stream: 7n },
    {},
    7n,
    { event: -1n },
  ] as never[]) {
    const given = sender.write({ ...chunkOf(4, 0, [0]), after })
    await expect(given).rejects.toThrow(/chunk\.after must be { event: bigint } or/)
  }
  expect(engine.writes).toBe(0)
  await sender.write(chunkOf(4, 0, [0]))
  await sender.finish()
})

test('a reserve may come before its prefill leg, and is parked', async () => {
  const { prefill, decode, from } = await pair()
  const digest = promptDigest(ids(4))
  const receiver = decode.receive(1n, { from, tokens: 4, digest })
  await receiver.reserve({ pages: Int32Array.of(3) })
  const sender = prefill.send(1n, { tokens: 4, digest })
  await sender.reserved()
  await sender.write(chunkOf(8, 0, Int32Array.of(0)))
  await sender.finish()
  await receiver.done
})

test('nothing can be written to a request that has ended', async () => {
  const side = await pair()
  const { sender } = await openLegs(side, 1n, prompt(4), [3])
  await sender.write(chunkOf(8, 0, Int32Array.of(0)))
  await sender.finish()
  const ended = { code: 'ERR_KVX_INVALID_STATE' }
  await expect(sender.write(chunkOf(8, 0, Int32Array.of(0)))).rejects.toMatchObject(ended)
  await expect(sender.finish()).rejects.toMatchObject(ended)
})

test('a layer range after the other may be sent', async () => {
  const side = await pair()
  const { receiver, sender } = await openLegs(side, 1n, prompt(8), [3, 4])
  await sender.write({ ...chunkOf(8, 0, Int32Array.of(0, 1)), layers: [1, 3] })
  await sender.write({ ...chunkOf(8, 0, Int32Array.of(0, 1)), layers: [0, 1] })
  await sender.finish()
  expect((await receiver.done).report).toMatchObject({
    pages: 2,
    bytes: 2 * wholePageBytes,
    chunks: 2,
  })
})

test('decode may hold back its pages until prefill wants them', async () => {
  const { prefill, decode, from } = await pair()
  const digest = promptDigest(ids(8))
  const receiver = decode.receive(1n, { from, tokens: 8, digest })
  const sender = prefill.send(1n, { tokens: 8, digest })
  await receiver.reserve({})
  await sender.reserved()
  sender.ready()
  await receiver.wanted
  const written = sender.write(chunkOf(8, 0, Int32Array.of(5, 6)))
  receiver.provide({ pages: Int32Array.of(1, 0) })
  await written
  await sender.finish()
  await receiver.done
})

test('what decode already holds is rounded down to whole pages and not sent', async () => {
  const { prefill, decode, from } = await pair()
  const tokens = 3 * pageTokens
  const digest = promptDigest(ids(tokens))
  const receiver = decode.receive(1n, { from, tokens, digest })
  const sender = prefill.send(1n, { tokens, digest })
  const accepted = await receiver.reserve({
    pages: Int32Array.of(7, 8),
    prefixTokens: pageTokens + 2,
  })
  expect(accepted).toEqual({ prefixTokens: pageTokens })
  expect(await sender.reserved()).toEqual({
    prefixTokens: pageTokens,
    firstTokens: { kv: pageTokens },
  })
  await sender.write(chunkOf(tokens, 0, Int32Array.of(0, 1, 2)))
  await sender.finish()
  expect((await receiver.done).report.pages).toBe(2)
})

test('a byte flipped after landing fails the request when verifyKV is on', async () => {
  const side = await pair({ decode: { verifyKV: true } })
  const { receiver, sender } = await openLegs(side, 1n, prompt(8), [11, 12])
  side.engine.faults.beforeSettled = () => {
    const byte = side.decodeMemory.view(
      (side.decodeCache.place.tensors[3]?.base ?? 0) + 12 * 64 + 5,
      1,
    )
    byte[0] = (byte[0] ?? 0) ^ 1
  }
  await sender.write(chunkOf(8, 0, Int32Array.of(0, 1)))
  const finished = sender.finish()
  await expect(receiver.done).rejects.toMatchObject({
    code: 'ERR_KVX_CHECKSUM_MISMATCH',
    phase: 'complete',
    message: expect.stringContaining("Layer 1 of 'kv' arrived damaged") as string,
  })
  await expect(finished).rejects.toMatchObject({ code: 'ERR_KVX_CHECKSUM_MISMATCH' })
  await Promise.all([receiver.settled, sender.settled])
})

test('with checksums on, an undamaged request succeeds', async () => {
  const side = await pair({ decode: { verifyKV: true } })
  const { receiver, sender } = await openLegs(side, 1n, prompt(5), [11, 12])
  await sender.write(chunkOf(5, 0, Int32Array.of(0, 1)))
  await sender.finish()
  await receiver.done
})

test('an abort while checksums are computed ends both sides, and what they give afterwards changes nothing', async () => {
  const side = await pair({ decode: { verifyKV: true } })
  const { receiver, sender } = await openLegs(side, 1n, prompt(8), [11, 12])
  let computed: () => void = () => undefined
  const computing = new Promise<void>((started) => {
    side.engine.faults.beforeChecksum = () => {
      started()
      return new Promise<void>((resolve) => (computed = resolve))
    }
  })
  await sender.write(chunkOf(8, 0, Int32Array.of(0, 1)))
  const finished = sender.finish()
  await computing
  receiver.abort('the client went away')
  const aborted = { code: 'ERR_KVX_ABORTED', message: 'the client went away' }
  await expect(receiver.done).rejects.toMatchObject(aborted)
  await expect(finished).rejects.toMatchObject(aborted)
  await Promise.all([receiver.settled, sender.settled])
  computed()
  side.engine.faults.beforeChecksum = () => undefined
  // The pages of both sides serve the next request.
  const next = await openLegs(side, 2n, prompt(8), [11, 12])
  await next.sender.write(chunkOf(8, 0, Int32Array.of(0, 1)))
  await next.sender.finish()
  expect((await next.receiver.done).report.pages).toBe(2)
  expect(receiver.error).toMatchObject(aborted)
})

test('checksums that cannot be computed fail the request with the reason', async () => {
  const side = await pair({ decode: { verifyKV: true } })
  const { receiver, sender } = await openLegs(side, 1n, prompt(8), [11, 12])
  side.engine.faults.beforeChecksum = () => {
    throw new Error('no thread')
  }
  await sender.write(chunkOf(8, 0, Int32Array.of(0, 1)))
  const failed = { phase: 'complete', message: expect.stringContaining('no thread') as string }
  await expect(sender.finish()).rejects.toMatchObject(failed)
  await expect(receiver.done).rejects.toMatchObject(failed)
})

test('after an abort decode keeps its pages until the last write has settled', async () => {
  const side = await pair()
  const { receiver, sender } = await openLegs(side, 1n, prompt(8), [1, 2])
  let release: () => void = () => undefined
  const stuck = new Promise<void>((resolve) => (release = resolve))
  side.engine.faults.beforeSettled = () => stuck
  await sender.write(chunkOf(8, 0, Int32Array.of(0, 1)))
  receiver.abort('the client went away')
  await expect(receiver.done).rejects.toMatchObject({ code: 'ERR_KVX_ABORTED' })
  await expect(sender.finish()).rejects.toMatchObject({
    code: 'ERR_KVX_ABORTED',
    message: 'the client went away',
  })
  let settled = false
  void receiver.settled.then(() => (settled = true))
  // Another whole request goes through meanwhile: the abort has long been answered by then.
  side.engine.faults.beforeSettled = () => undefined
  await exchange(side, 2n)
  expect(settled).toBe(false)
  release()
  await receiver.settled
  await sender.settled
})

test('an abort by prefill reaches decode with its cause', async () => {
  const side = await pair()
  const { receiver, sender } = await openLegs(side, 1n, prompt(8), [1, 2])
  sender.abort('out of compute')
  await expect(receiver.done).rejects.toMatchObject({
    code: 'ERR_KVX_ABORTED',
    message: 'out of compute',
  })
  await receiver.settled
})

test('who waits for pages to be wanted is told at the latest when they have arrived', async () => {
  const side = await pair()
  const { receiver, sender } = await openLegs(side, 1n, prompt(8), [1, 2])
  await sender.write(chunkOf(8, 0, Int32Array.of(0, 1)))
  await Promise.all([sender.finish(), receiver.done])
  await receiver.wanted
})

test('a fence that fails is tried again, and the pages come back when it has succeeded', async () => {
  const engine = new Loopback('exit')
  const deadlines = { peerSilent: 300, ping: 100, drain: 100 }
  const side = await pair({ engine, decode: { deadlines } })
  let fences = 0
  engine.faults.beforeFence = () => {
    if (++fences <= 2) throw new Error('not now')
  }
  const prefill = await RawPrefill.open()
  const receiver = side.decode.receive(1n, {
    from: prefill.from,
    tokens: 8,
    digest: promptDigest(ids(8)),
  })
  receiver.done.catch(() => undefined)
  await prefill.hear('hello')
  prefill.welcome()
  const accepted = receiver.reserve({ pages: Int32Array.of(1, 2) })
  const { ep } = await prefill.hear('reserve')
  prefill.say('accept', { ep, state: 'paired' })
  await accepted
  await prefill.close()
  await receiver.settled
  expect(fences).toBe(3)
})

test('two live requests cannot share a room', async () => {
  const { prefill, decode, from } = await pair()
  const digest = promptDigest(ids(4))
  prefill.send(3n, { tokens: 4, digest }).settled.catch(() => undefined)
  expect(() => prefill.send(3n, { tokens: 4, digest })).toThrow(
    expect.objectContaining({ code: 'ERR_KVX_ROOM_IN_USE' }),
  )
  decode.receive(4n, { from, tokens: 4, digest })
  expect(() => decode.receive(4n, { from, tokens: 4, digest })).toThrow(
    expect.objectContaining({ code: 'ERR_KVX_ROOM_IN_USE' }),
  )
})

test('both legs fail when they were given different prompts', async () => {
  const { prefill, decode, from } = await pair()
  const receiver = decode.receive(1n, { from, tokens: 4, digest: promptDigest([1, 2, 3, 4]) })
  const sender = prefill.send(1n, { tokens: 4, digest: promptDigest([1, 2, 3, 5]) })
  await expect(receiver.reserve({ pages: Int32Array.of(1) })).rejects.toMatchObject({
    code: 'ERR_KVX_PROMPT_MISMATCH',
  })
  await expect(sender.reserved()).rejects.toMatchObject({ code: 'ERR_KVX_PROMPT_MISMATCH' })
})

test('finish names tokens that were never written, and can be called again when it is', async () => {
  const side = await pair()
  const { receiver, sender } = await openLegs(side, 1n, prompt(8), [1, 2])
  await sender.write(chunkOf(8, 0, Int32Array.of(0)))
  await expect(sender.finish()).rejects.toMatchObject({
    code: 'ERR_KVX_INVALID_ARGUMENT',
    message: expect.stringContaining('tokens 4 to 8 of layer 0') as string,
  })
  await sender.write(chunkOf(8, 1, Int32Array.of(1)))
  await sender.finish()
  await receiver.done
})

test('a prefill that nobody asks for gives up at its deadline', async () => {
  const { prefill } = await pair()
  const sender = prefill.send(1n, {
    tokens: 4,
    digest: promptDigest(ids(4)),
    deadlines: { pairing: 100 },
  })
  await expect(sender.reserved()).rejects.toMatchObject({
    code: 'ERR_KVX_TIMEOUT',
    phase: 'reserve',
  })
})

test('decode with another token is told so at once', async () => {
  const side = await pair()
  const other = await KVManager.open({
    role: 'decode',
    backend: side.engine.backend,
    token: 'another token for tests',
    ...side.decodeCache,
    memory: [side.decodeMemory],
  })
  open.push(other)
  const receiver = other.receive(1n, { from: side.from, tokens: 4, digest: promptDigest(ids(4)) })
  await expect(receiver.done).rejects.toMatchObject({ code: 'ERR_KVX_UNAUTHORIZED' })
  await receiver.settled
})

test('an engine that cannot connect refuses the request with its reason', async () => {
  const side = await pair()
  side.engine.faults.failConnect = 'no such device'
  const receiver = side.decode.receive(1n, {
    from: side.from,
    tokens: 4,
    digest: promptDigest(ids(4)),
  })
  await expect(receiver.done).rejects.toMatchObject({
    code: 'ERR_KVX_CONNECT_FAILED',
    message: 'no such device',
    phase: 'hello',
  })
})

test('pages whose writer never settles come back by a new generation of the engine', async () => {
  const side = await pair({
    engine: new Loopback('engine'),
    decode: { deadlines: { drain: 100, recycle: 100 } },
  })
  const { receiver, sender } = await openLegs(side, 1n, prompt(8), [1, 2])
  let release: () => void = () => undefined
  const stuck = new Promise<void>((resolve) => (release = resolve))
  side.engine.faults.beforeSettled = () => stuck
  await sender.write(chunkOf(8, 0, Int32Array.of(0, 1)))
  receiver.abort('gone')
  await receiver.settled
  expect(side.engine.closed).toHaveLength(1)
  expect(side.engine.opened).toHaveLength(3)
  side.engine.faults.beforeSettled = () => undefined
  await exchange(side, 2n)
  release()
  await sender.settled
})

test('a write that never settles gives its source pages back by a new generation of the writer', async () => {
  const deadlines = { drain: 100, recycle: 100 }
  const side = await pair({ engine: new Loopback('engine'), prefill: { deadlines } })
  const { receiver, sender } = await openLegs(side, 1n, prompt(8), [1, 2])
  side.engine.faults.beforeSettled = () => new Promise(() => undefined)
  await sender.write(chunkOf(8, 0, Int32Array.of(0, 1)))
  sender.abort('out of patience')
  await sender.settled
  await receiver.settled
  expect(side.engine.closed).toEqual([side.engine.opened[0]])
  side.engine.faults.beforeSettled = () => undefined
  await exchange(side, 2n)
})

/** One whole request. */
async function exchange(side: Awaited<ReturnType<typeof pair>>, room: bigint) {
  const { receiver, sender } = await openLegs(side, room, prompt(8), [20, 21])
  await sender.write(chunkOf(8, 0, Int32Array.of(10, 11)))
  await sender.finish()
  await receiver.done
}
