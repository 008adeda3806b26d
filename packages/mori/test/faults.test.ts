import { allocate } from '@kvx/native'
import { expect, onTestFinished, test } from 'vitest'
import { freeze } from '../../native/test/freeze.ts'
import { control, forkPeer, open, pages, until, useMori, type Peer } from './support/mori.ts'

useMori()

const megabyte = 1 << 20
const page = 64 * 1024
const limit = { timeout: 60_000 }

async function writer(peer: Peer) {
  const engine = await open()
  onTestFinished(async () => {
    control.set('hold', 0)
    control.set('lose', 0)
    await engine.close()
  })
  const memory = allocate(megabyte)
  memory.view(0, megabyte).fill(1)
  await engine.register(memory)
  return { engine, link: await engine.connect(peer.address) }
}

/** The bytes at the target, when they are all the same. */
async function filling(peer: Peer): Promise<number> {
  const bytes = Buffer.from((await peer.ask('read')) as string, 'base64')
  const [first = -1] = bytes
  return bytes.every((byte) => byte === first) ? first : -1
}

test(
  'a killed target fails the transfers under way, they settle, and the writer goes on',
  limit,
  async () => {
    const peer = await forkPeer([megabyte])
    const { engine, link } = await writer(peer)
    await link.write(pages(page, 16)).done
    control.set('hold', 1)
    const transfers = Array.from({ length: 8 }, () => link.write(pages(page, 16)))
    await until(() => control.get('held') > 0)
    await peer.kill()
    control.set('hold', 0)
    const outcomes = await Promise.allSettled(transfers.map(({ done }) => done))
    expect(outcomes.map(({ status }) => status)).toEqual(transfers.map(() => 'rejected'))
    expect(outcomes[0]).toMatchObject({ reason: { code: 'ERR_KVX_PEER_LOST' } })
    await Promise.all(transfers.map(({ settled }) => settled))

    const next = await forkPeer([megabyte])
    const again = await engine.connect(next.address)
    await again.write(pages(page, 16)).done
    expect(await filling(next)).toBe(1)
  },
)

test(
  'done rejects in time when a completion is lost, and the transfer settles when the engine is closed',
  limit,
  async () => {
    const peer = await forkPeer([megabyte])
    const { engine, link } = await writer(peer)
    await freeze(peer.process.pid!)
    control.set('lose', 1)
    const began = performance.now()
    let settled = false
    const transfer = link.write(pages(page, 16), { deadlineMs: 500 })
    void transfer.settled.then(() => {
      settled = true
    })
    await expect(transfer.done).rejects.toMatchObject({ code: 'ERR_KVX_TRANSFER_TIMEOUT' })
    expect(performance.now() - began).toBeLessThan(5000)
    // A stopped process does not keep the device from writing into it, and other transfers go on.
    await expect(link.write(pages(page, 16)).done).resolves.toMatchObject({ bytes: megabyte })
    expect(settled).toBe(false)
    await engine.close()
    expect(settled).toBe(true)
    peer.process.kill('SIGCONT')
    expect(await filling(peer)).toBe(1)
  },
)

test('what was on its way when the target recycled its engine lands nowhere', limit, async () => {
  const peer = await forkPeer([megabyte])
  const { engine, link } = await writer(peer)
  const refused = control.get('refused')
  control.set('hold', 1)
  const transfer = link.write(pages(page, 16), { deadlineMs: 300 })
  await until(() => control.get('held') > 0)
  await freeze(peer.process.pid!)
  await expect(transfer.done).rejects.toMatchObject({ code: 'ERR_KVX_TRANSFER_TIMEOUT' })
  peer.process.kill('SIGCONT')

  const old = peer.address
  await peer.recycle()
  await peer.ask('fill', { value: 7 }) // the pages have been handed out again
  control.set('hold', 0)
  await transfer.settled
  expect(control.get('refused')).toBeGreaterThan(refused)
  expect(await filling(peer)).toBe(7)
  expect(peer.address.generation).not.toBe(old.generation)

  // Neither does the old generation's address lead to the new one.
  await expect(engine.connect(old)).rejects.toMatchObject({ code: 'ERR_KVX_CONNECT_FAILED' })
  const again = await engine.connect(peer.address)
  await again.write(pages(page, 16)).done
  expect(await filling(peer)).toBe(1)
})

test('what a writer had posted when its engine was closed lands nowhere', limit, async () => {
  const peer = await forkPeer([megabyte])
  const { engine, link } = await writer(peer)
  await peer.ask('fill', { value: 7 })
  control.set('hold', 1)
  const transfer = link.write(pages(page, 16))
  await until(() => control.get('held') > 0)
  await engine.close()
  await transfer.settled
  await expect(transfer.done).rejects.toMatchObject({ code: 'ERR_KVX_CLOSED' })
  expect(control.get('held')).toBe(0)
  control.set('hold', 0)
  expect(await filling(peer)).toBe(7)
})

test(
  'a failed part does not settle a transfer of which another part is still under way',
  limit,
  async () => {
    const peer = await forkPeer([megabyte, megabyte])
    const { engine, link } = await writer(peer)
    await peer.ask('deregister', { region: 0 })
    // The rails take shares of the bytes in order: half goes to the lost region, half to the other.
    const plan = {
      lanes: Float64Array.of(
        ...[0, 0, 0, 0, page, page, page, 1, 0, 0],
        ...[0, 1, 0, 0, page, page, page, 1, 0, 0],
      ),
      groups: Int32Array.of(0, 0, 16),
      blocks: Int32Array.of(0, 1, 0, 2),
    }
    control.set('lose', 1) // the half that arrives is never acknowledged
    let settled = false
    const transfer = link.write(plan)
    void transfer.settled.then(() => {
      settled = true
    })
    await expect(transfer.done).rejects.toMatchObject({ code: 'ERR_KVX_TRANSFER_FAILED' })
    await expect(link.write(pages(page, 1)).done).rejects.toMatchObject({
      code: 'ERR_KVX_PEER_LOST',
    })
    expect(settled).toBe(false)
    await engine.close()
    expect(settled).toBe(true)
  },
)

test('connecting to a stopped process fails by its deadline with the reason', limit, async () => {
  const peer = await forkPeer([megabyte])
  const other = await forkPeer([megabyte])
  const { engine } = await writer(other)
  await freeze(peer.process.pid!)
  const began = performance.now()
  await expect(engine.connect(peer.address, { timeoutMs: 1000 })).rejects.toMatchObject({
    code: 'ERR_KVX_CONNECT_FAILED',
  })
  expect(performance.now() - began).toBeLessThan(10_000)
})

test('connecting to a process that is gone is refused at once', limit, async () => {
  const peer = await forkPeer([megabyte])
  const other = await forkPeer([megabyte])
  const { engine } = await writer(other)
  await peer.kill()
  await expect(engine.connect(peer.address)).rejects.toThrow(
    'cannot be reached: Connection refused',
  )
})

test('a peer with another version of MORI is refused, naming both', limit, async () => {
  const peer = await forkPeer([megabyte])
  const { engine } = await writer(peer)
  const address = Uint8Array.from(
    Buffer.from(peer.address.address).toString('latin1').replace('1.2.4', '1.2.2'),
    (c) => c.charCodeAt(0),
  )
  await expect(engine.connect({ ...peer.address, address })).rejects.toMatchObject({
    code: 'ERR_KVX_BACKEND_MISMATCH',
    message: expect.stringMatching(/MORI 1\.2\.2.*1\.2\.4/) as string,
  })
})

test.each([
  ['empty', []],
  ['cut short', [1, 5, 0, 0]],
  ['of another format', [9, 9, 9, 9, 9, 9]],
])('an address that is %s is refused', limit, async (_, bytes) => {
  const peer = await forkPeer([megabyte])
  const { engine } = await writer(peer)
  await expect(
    engine.connect({ ...peer.address, address: Uint8Array.from(bytes) }),
  ).rejects.toMatchObject({
    code: 'ERR_KVX_CONNECT_FAILED',
  })
})

test('a region of another engine is refused', limit, async () => {
  const peer = await forkPeer([megabyte])
  const other = await forkPeer([megabyte])
  const { engine } = await writer(peer)
  await expect(engine.connect({ ...peer.address, regions: other.address.regions })).rejects.toThrow(
    'another engine',
  )
})
