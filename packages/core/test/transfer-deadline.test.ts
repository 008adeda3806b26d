import { afterEach, expect, test, vi } from 'vitest'
import { promptDigest } from '../src/shape/index.ts'
import { KVPoll } from '../src/manager/index.ts'
import { Loopback } from './support/loopback.ts'
import { chunkOf, openLegs, openPair, type PairOptions } from './support/pair.ts'

const open: { close(): Promise<void> }[] = []
afterEach(async () => {
  for (const one of open.splice(0)) await one.close()
})

async function pair(options: PairOptions) {
  const made = await openPair(options)
  open.push(made)
  return made
}

const prompt = { tokens: 8, digest: promptDigest([1, 2, 3, 4, 5, 6, 7, 8]) }
const pages = Int32Array.of(0, 1)

/** An engine that ends no write before it is told to. */
function endless() {
  const engine = new Loopback('exit')
  let end: () => void = () => undefined
  const ended = new Promise<void>((resolve) => (end = resolve))
  engine.faults.beforeWrite = () => ended
  return { engine, end }
}

test('a write whose engine never ends it fails on both sides at its deadline, and its pages stay taken until it has settled', async () => {
  const { engine, end } = endless()
  const deadlines = { drain: 100 }
  const side = await pair({ engine, prefill: { deadlines }, decode: { deadlines } })
  const receiver = side.decode.receive(1n, { ...prompt, from: side.from })
  const sender = side.prefill.send(1n, { ...prompt, deadlines: { transfer: 200 } })
  await receiver.reserve({ pages: Int32Array.of(1, 2) })
  await sender.reserved()
  await sender.write(chunkOf(8, 0, pages))
  const late = { code: 'ERR_KVX_TRANSFER_TIMEOUT', phase: 'transfer' }
  await expect(sender.finish()).rejects.toMatchObject(late)
  await expect(receiver.done).rejects.toMatchObject(late)
  const settled: string[] = []
  void sender.settled.then(() => settled.push('sender'))
  void receiver.settled.then(() => settled.push('receiver'))
  // A whole request passes meanwhile, also the drain deadline.
  engine.faults.beforeWrite = () => undefined
  const other = await openLegs(side, 2n, prompt, [3, 4])
  await other.sender.write(chunkOf(8, 0, pages))
  await other.sender.finish()
  await other.receiver.done
  expect(settled).toEqual([])
  end()
  await Promise.all([sender.settled, receiver.settled])
})

test('a write that is aborted in the same turn never reaches the engine', async () => {
  const engine = new Loopback('exit')
  const side = await pair({ engine })
  const { sender, receiver } = await openLegs(side, 1n, prompt, [1, 2])
  const beforeWrite = vi.fn()
  engine.faults.beforeWrite = beforeWrite
  const written = sender.write(chunkOf(8, 0, pages))
  sender.abort('changed my mind')
  await written.catch(() => undefined)
  await Promise.all([sender.settled, receiver.settled])
  expect(beforeWrite).not.toHaveBeenCalled()
  await expect(receiver.done).rejects.toMatchObject({ message: 'changed my mind' })
})

test('of many writes in the turn of an abort none reaches the engine, and those before it are cancelled', async () => {
  const { engine, end } = endless()
  const side = await pair({ engine })
  const { sender, receiver } = await openLegs(side, 1n, prompt, [1, 2])
  await sender.write({ ...chunkOf(8, 0, pages), layers: [0, 1] })
  await vi.waitUntil(() => engine.writes === 1)
  const written = [
    sender.write({ ...chunkOf(8, 0, pages), layers: [1, 2] }),
    sender.write({ ...chunkOf(8, 0, pages), layers: [2, 3] }),
  ]
  sender.abort('gone')
  await Promise.allSettled(written)
  expect(engine.cancelled).toBe(1)
  end()
  await Promise.all([sender.settled, receiver.settled])
  expect(engine.writes).toBe(1)
})

test('both sides report the same time, in which bytes were on their way, and none in which prefill computed', async () => {
  const engine = new Loopback('exit')
  const side = await pair({ engine })
  const { sender, receiver } = await openLegs(side, 1n, prompt, [1, 2])
  const computing = 300
  await sender.write(chunkOf(8, 0, pages.subarray(0, 1)))
  const began = performance.now()
  await vi.waitUntil(() => performance.now() - began > computing)
  await sender.write(chunkOf(8, 1, pages.subarray(1)))
  const sent = await sender.finish()
  const { report } = await receiver.done
  expect(report.ms).toBe(sent.ms)
  expect(sent.ms).toBeGreaterThan(0)
  expect(sent.ms).toBeLessThan(computing)
})

test('a receiver is told to be transferring once a part has landed, also of some layers only', async () => {
  const side = await pair({ engine: new Loopback('exit') })
  const { sender, receiver } = await openLegs(side, 1n, prompt, [1, 2])
  expect(receiver.poll()).toBe(KVPoll.WaitingForInput)
  await sender.write({ ...chunkOf(8, 0, pages), layers: [0, 1] })
  await vi.waitUntil(() => receiver.poll() === KVPoll.Transferring)
  await sender.write({ ...chunkOf(8, 0, pages), layers: [1, 3] })
  await sender.finish()
  await receiver.done
  expect(receiver.poll()).toBe(KVPoll.Success)
})
