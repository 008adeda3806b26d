/** What a device may do to a writer, and what becomes of the transfer, of the link and of the engine. */
import { allocate } from '@kvx/native'
import { afterEach, expect, onTestFinished, test } from 'vitest'
import { control, forkPeer, open, pages, until, useMori, type Peer } from './support/mori.ts'

useMori()

const megabyte = 1 << 20
const page = 64 * 1024
const limit = { timeout: 60_000 }
const all = pages(page, megabyte / page)

const faults = ['hold', 'lose', 'status', 'late', 'full', 'removed', 'refuse'] as const
afterEach(() => faults.forEach((fault) => control.set(fault, 0)))

async function writer(peer: Peer) {
  const engine = await open()
  onTestFinished(() => {
    faults.forEach((fault) => control.set(fault, 0))
    return engine.close()
  })
  const memory = allocate(megabyte)
  memory.view(0, megabyte).fill(1)
  await engine.register(memory)
  return { engine, link: await engine.connect(peer.address) }
}

/** The bytes at the target, when they are all the same. */
async function filling(peer: Peer): Promise<number> {
  const bytes = Buffer.from((await peer.ask('read')) as string, 'base64')
  return bytes.subarray(1).equals(bytes.subarray(0, -1)) ? bytes[0]! : -1
}

/** Whether it is known by now that nothing of a transfer can land any more. */
function watch({ settled }: { settled: Promise<void> }): () => boolean {
  let is = false
  void settled.then(() => (is = true))
  return () => is
}

test.each([
  ['its retries are exceeded', 12, 'ERR_KVX_PEER_LOST'],
  ['the target was not ready for too long', 13, 'ERR_KVX_TRANSFER_FAILED'],
  ['the target allows no access', 10, 'ERR_KVX_TRANSFER_FAILED'],
  ['the source allows no access', 4, 'ERR_KVX_TRANSFER_FAILED'],
  ['the device itself failed', 19, 'ERR_KVX_TRANSFER_FAILED'],
])(
  'a completion that says that %s fails the write and settles it; its link is dead, another works',
  limit,
  async (_, status, code) => {
    const peer = await forkPeer([megabyte])
    const { engine, link } = await writer(peer)
    control.set('status', status)
    const transfer = link.write(all)
    await expect(transfer.done).rejects.toMatchObject({ code })
    await transfer.settled
    control.set('status', 0)
    expect(await filling(peer)).toBe(0)

    await expect(link.write(all).done).rejects.toMatchObject({ code: 'ERR_KVX_PEER_LOST' })
    const again = await engine.connect(peer.address)
    await again.write(all).done
    expect(await filling(peer)).toBe(1)
  },
)

test('a completion that comes before the deadline of its write is waited for', limit, async () => {
  const peer = await forkPeer([megabyte])
  const { link } = await writer(peer)
  const landed = control.get('landed')
  control.set('late', 1)
  const transfer = link.write(all)
  const isSettled = watch(transfer)
  await until(() => control.get('landed') > landed)
  expect(isSettled()).toBe(false)
  control.set('late', 0)
  await expect(transfer.done).resolves.toMatchObject({ bytes: megabyte })
  await transfer.settled
})

test(
  'a completion that comes after the deadline settles its write, which has failed, and the link goes on',
  limit,
  async () => {
    const peer = await forkPeer([megabyte])
    const { link } = await writer(peer)
    control.set('late', 1)
    const transfer = link.write(all, { deadlineMs: 300 })
    const isSettled = watch(transfer)
    await expect(transfer.done).rejects.toMatchObject({ code: 'ERR_KVX_TRANSFER_TIMEOUT' })
    expect(isSettled()).toBe(false)
    control.set('late', 0)
    await transfer.settled
    await expect(link.write(all).done).resolves.toMatchObject({ bytes: megabyte })
  },
)

test(
  'a send queue that takes nothing fails the write; what of it was posted is unknown until the engine is closed',
  limit,
  async () => {
    const peer = await forkPeer([megabyte])
    const { engine, link } = await writer(peer)
    control.set('full', 1)
    const transfer = link.write(all)
    const isSettled = watch(transfer)
    await expect(transfer.done).rejects.toMatchObject({ code: 'ERR_KVX_TRANSFER_FAILED' })
    control.set('full', 0)
    await expect(link.write(all).done).rejects.toMatchObject({ code: 'ERR_KVX_PEER_LOST' })
    const again = await engine.connect(peer.address)
    await again.write(all).done
    expect(isSettled()).toBe(false)
    await engine.close()
    expect(isSettled()).toBe(true)
  },
)

test(
  'a device that is removed fails what is under way, new links and new engines, and the engine closes in time',
  limit,
  async () => {
    const peer = await forkPeer([megabyte])
    const { engine, link } = await writer(peer)
    control.set('hold', 1)
    const transfer = link.write(all)
    await until(() => control.get('held') > 0)
    control.set('removed', 1)
    await expect(transfer.done).rejects.toMatchObject({ code: 'ERR_KVX_TRANSFER_FAILED' })
    await transfer.settled
    expect(await filling(peer)).toBe(0)
    await expect(link.write(all).done).rejects.toMatchObject({ code: 'ERR_KVX_PEER_LOST' })
    await expect(engine.register(allocate(megabyte))).rejects.toMatchObject({
      code: 'ERR_KVX_MEMORY',
    })
    await expect(open()).rejects.toMatchObject({ code: 'ERR_KVX_BACKEND_UNAVAILABLE' })
    const began = performance.now()
    await engine.close()
    expect(performance.now() - began).toBeLessThan(10_000)

    // It is back: a new engine works, of a process that has lived through it.
    control.set('removed', 0)
    control.set('hold', 0)
    const { link: next } = await writer(peer)
    await next.write(all).done
    expect(await filling(peer)).toBe(1)
  },
)
