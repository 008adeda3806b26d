import type { KvxError, Transfer } from '@kvx/contract'
import { allocate } from '@kvx/native'
import { afterEach, beforeAll, expect, test, vi } from 'vitest'
import { child, loadFaulty, newGeneration, open, pair, reversed } from './faulty.ts'
import { lane, planOf } from './plans.ts'

let faulty: ReturnType<typeof loadFaulty>

beforeAll(() => {
  faulty = loadFaulty()
})

afterEach(() => {
  faulty.unstick()
  faulty.finish()
  expect(faulty.world().broken).toEqual([])
  faulty.reset()
})

const code = (name: string) => expect.objectContaining({ name: 'KvxError', code: name }) as KvxError

/** Which of the two promises of a transfer have ended. */
function watch(transfer: Transfer) {
  const seen = { done: false, settled: false }
  transfer.done.then(
    () => (seen.done = true),
    () => (seen.done = true),
  )
  void transfer.settled.then(() => (seen.settled = true))
  return seen
}

test('a write moves the bytes, reports them, and settles', async () => {
  const { connect, close, source, destination } = await pair(faulty)
  const link = await connect()
  const transfer = link.write(reversed)
  expect(await transfer.done).toEqual({ bytes: 4096, segments: 256 })
  await transfer.settled
  for (let page = 0; page < 256; page++) {
    expect(destination.view((255 - page) * 16, 16)).toEqual(source.view(page * 16, 16))
  }
  await close()
  expect(faulty.world().drivers).toBe(0)
})

test.each([
  [2, 'interface 2, this one has 1'],
  [undefined, 'interface without a number, this one has 1'],
])('an addon compiled with other headers (%s) is refused', async (engineInterface, says) => {
  const other = { ...faulty, engineInterface } as typeof faulty
  await expect(open(other)).rejects.toMatchObject({
    code: 'ERR_KVX_BACKEND_UNAVAILABLE',
    message: expect.stringContaining(says) as string,
  })
  expect(faulty.world().drivers).toBe(0)
})

test('a long plan goes in batches of what the driver takes', async () => {
  const { connect, close } = await pair(faulty, { batch: 10 })
  const transfer = (await connect()).write(reversed)
  expect(await transfer.done).toEqual({ bytes: 4096, segments: 256 })
  expect(faulty.world().submits).toBe(26)
  await close()
})

test('transfers of one link all end, however many are written at once', async () => {
  const { connect, close } = await pair(faulty, { batch: 100 })
  const links = await Promise.all([connect(), connect(), connect()])
  const transfers = links.flatMap((link) => Array.from({ length: 50 }, () => link.write(reversed)))
  for (const transfer of transfers) expect(await transfer.done).toMatchObject({ bytes: 4096 })
  await Promise.all(transfers.map((transfer) => transfer.settled))
  await close()
})

test('an invalid plan fails the transfer and settles it, and nothing is submitted', async () => {
  const { connect, close } = await pair(faulty)
  const link = await connect()
  const invalid = [
    planOf([lane()], [[255, 255, 2]]),
    planOf([lane({ sourceRegion: 1 })], [[0, 0, 1]]),
    planOf([lane({ sourceBase: -1 })], [[0, 0, 1]]),
    planOf([lane({ sourceRegion: NaN })], [[0, 0, 1]]),
    { ...reversed, lanes: [] as unknown as Float64Array },
    { ...reversed, groups: undefined as unknown as Int32Array },
    undefined as never,
  ]
  for (const plan of invalid) {
    const transfer = link.write(plan)
    await expect(transfer.done).rejects.toEqual(code('ERR_KVX_PLAN_INVALID'))
    await transfer.settled
  }
  expect(faulty.world().submits).toBe(0)
  await close()
})

test('a transfer that never ends rejects at its deadline, and settles when the engine is closed', async () => {
  const { connect, close, writer } = await pair(faulty, { poll: 'pending' })
  const transfer = (await connect()).write(reversed, { deadlineMs: 30 })
  const seen = watch(transfer)
  await expect(transfer.done).rejects.toEqual(code('ERR_KVX_TRANSFER_TIMEOUT'))
  expect(seen.settled).toBe(false)
  await writer.close()
  await transfer.settled
  await close()
})

test('a failed transfer whose bytes may still land rejects at once and settles only when they cannot', async () => {
  const { connect, close } = await pair(faulty, { poll: 'failLater' })
  const transfer = (await connect()).write(reversed)
  const seen = watch(transfer)
  await expect(transfer.done).rejects.toMatchObject({
    code: 'ERR_KVX_TRANSFER_FAILED',
    message: 'The wire is cut.',
  })
  expect(seen.settled).toBe(false)
  faulty.finish()
  await transfer.settled
  await close()
})

test('the code in front of a reason becomes the code of the error', async () => {
  const reason = 'ERR_KVX_PEER_LOST: The process is gone.'
  const { connect, close } = await pair(faulty, { poll: 'fail', reason })
  const transfer = (await connect()).write(reversed)
  await expect(transfer.done).rejects.toMatchObject({
    code: 'ERR_KVX_PEER_LOST',
    message: 'The process is gone.',
    phase: 'transfer',
  })
  await transfer.settled
  await close()
})

test('a poll that throws fails the transfer and says nothing about its bytes', async () => {
  const { connect, close, writer } = await pair(faulty, { poll: 'throw' })
  const transfer = (await connect()).write(reversed)
  const seen = watch(transfer)
  await expect(transfer.done).rejects.toThrow('The status is unreadable.')
  expect(seen.settled).toBe(false)
  await writer.close()
  await transfer.settled
  await close()
})

test('a submit that throws fails the transfer, settles it, and the next one is tried', async () => {
  const { connect, close } = await pair(faulty, { submit: 'throw' })
  const link = await connect()
  for (let i = 0; i < 3; i++) {
    const transfer = link.write(reversed)
    await expect(transfer.done).rejects.toThrow('The queue is gone.')
    await transfer.settled
  }
  await close()
})

test('a peer that blocks its submits stalls no other peer', async () => {
  const slow = newGeneration()
  const { connect, close } = await pair(faulty, { submit: 'block', submitFor: slow })
  const [blocked, free] = await Promise.all([connect(slow), connect()])
  const first = blocked.write(reversed)
  const queued = blocked.write(reversed)
  await vi.waitUntil(() => faulty.world().blocked === 1)
  expect(await free.write(reversed).done).toMatchObject({ bytes: 4096 })

  // What waits behind the blocked submit ends at once when it is cancelled, ...
  queued.cancel(new Error('the client left'))
  await expect(queued.done).rejects.toMatchObject({
    code: 'ERR_KVX_ABORTED',
    message: 'The transfer was cancelled: the client left',
  })
  await queued.settled
  // ... and the blocked one when the driver heeds it.
  first.cancel()
  await expect(first.done).rejects.toEqual(code('ERR_KVX_ABORTED'))
  await first.settled
  await close()
})

test('a transfer that waits behind a blocked one rejects and settles at its own deadline', async () => {
  const { connect, close } = await pair(faulty, { submit: 'block' })
  const link = await connect()
  const first = link.write(reversed)
  const waiting = link.write(reversed, { deadlineMs: 30 })
  await expect(waiting.done).rejects.toEqual(code('ERR_KVX_TRANSFER_TIMEOUT'))
  await waiting.settled
  await link.close()
  await expect(first.done).rejects.toEqual(code('ERR_KVX_CLOSED'))
  await close()
})

test('a cancel after everything was posted changes nothing', async () => {
  const { connect, close } = await pair(faulty, { poll: 'slowly' })
  const transfer = (await connect()).write(reversed)
  await vi.waitUntil(() => faulty.world().submits === 1)
  transfer.cancel()
  faulty.finish()
  expect(await transfer.done).toMatchObject({ bytes: 4096 })
  transfer.cancel()
  await transfer.settled
  await close()
})

test('closing a link waits until its transfers have settled', async () => {
  const { connect, close } = await pair(faulty, { poll: 'slowly' })
  const link = await connect()
  const transfer = link.write(reversed)
  await vi.waitUntil(() => faulty.world().submits === 1)
  const seen = watch(transfer)
  let closed = false
  const closing = link.close().then(() => (closed = true))
  await expect(link.write(reversed).done).rejects.toEqual(code('ERR_KVX_CLOSED'))
  expect({ ...seen, closed }).toEqual({ done: false, settled: false, closed: false })
  faulty.finish()
  await closing
  expect(seen).toEqual({ done: true, settled: true })
  expect(await transfer.done).toMatchObject({ bytes: 4096 })
  await close()
})

test('a region is deregistered after the transfers that read it, and then refused', async () => {
  const { connect, close, sourceRegion } = await pair(faulty, { poll: 'slowly' })
  const link = await connect()
  const transfer = link.write(reversed)
  let gone = false
  const deregistered = sourceRegion.deregister().then(() => (gone = true))
  const late = link.write(reversed)
  await expect(late.done).rejects.toThrow(/region 0 is not registered/)
  await late.settled
  expect(gone).toBe(false)
  faulty.finish()
  expect(await transfer.done).toMatchObject({ bytes: 4096 })
  await deregistered
  await sourceRegion.deregister()
  await close()
})

test('registering goes on while a deregistration waits', async () => {
  const { connect, close, sourceRegion, writer } = await pair(faulty, { poll: 'pending' })
  const transfer = (await connect()).write(reversed)
  await vi.waitUntil(() => faulty.world().submits === 1)
  const waiting = sourceRegion.deregister()
  const more = allocate(4096)
  expect(await writer.register(more)).toMatchObject({ id: 1, bytes: 4096 })
  await writer.close()
  await waiting
  await transfer.settled
  more.free()
  await close()
})

test('memory cannot be freed while an engine has it registered', async () => {
  const { source, sourceRegion, close } = await pair(faulty)
  expect(() => {
    source.free()
  }).toThrow(code('ERR_KVX_INVALID_STATE'))
  await sourceRegion.deregister()
  source.free()
  await close()
})

test('memory that is no range, or of another kind, is refused', async () => {
  const { writer, source, close } = await pair(faulty)
  for (const bad of [
    { ...source, bytes: 0 },
    { ...source, bytes: 0.5 },
    { ...source, address: 0n },
    { ...source, address: 2n ** 64n - 1n },
    { ...source, address: 4096 as unknown as bigint },
    { ...source, kind: 'hip' as const },
  ]) {
    await expect(writer.register(bad)).rejects.toEqual(code('ERR_KVX_MEMORY'))
  }
  await close()
})

test('a refused connect rejects with the reason', async () => {
  const { connect, close } = await pair(faulty, { connect: 'refuse' })
  await expect(connect()).rejects.toMatchObject({
    code: 'ERR_KVX_CONNECT_FAILED',
    message: 'The peer said no.',
  })
  await close()
})

test('a connect that stays silent ends at its deadline, or when it is aborted', async () => {
  const { writer, owner, close } = await pair(faulty, { connect: 'silent' })
  const peer = { generation: newGeneration(), address: owner.address, regions: [] }
  await expect(writer.connect(peer, { timeoutMs: 30 })).rejects.toEqual(
    code('ERR_KVX_CONNECT_FAILED'),
  )
  const controller = new AbortController()
  const connecting = writer.connect(peer, { signal: controller.signal })
  controller.abort(new Error('shutting down'))
  await expect(connecting).rejects.toMatchObject({
    code: 'ERR_KVX_ABORTED',
    cause: { message: 'shutting down' },
  })
  await expect(writer.connect(peer, { signal: controller.signal })).rejects.toEqual(
    code('ERR_KVX_ABORTED'),
  )
  await close()
})

test('a malformed region descriptor is refused', async () => {
  const { writer, owner, close } = await pair(faulty)
  const { generation } = owner.identity
  await expect(
    writer.connect({ generation, address: owner.address, regions: [new Uint8Array(3)] }),
  ).rejects.toEqual(code('ERR_KVX_CONNECT_FAILED'))
  await close()
})

test('fence resolves once the driver says that the peer is gone, and can be aborted', async () => {
  const { owner, close } = await pair(faulty)
  const peer = newGeneration()
  let resolved = false
  const fence = owner.fence(peer).then(() => (resolved = true))
  const controller = new AbortController()
  const given = owner.fence(newGeneration(), { signal: controller.signal })
  controller.abort()
  await expect(given).rejects.toEqual(code('ERR_KVX_ABORTED'))
  expect(resolved).toBe(false)
  faulty.kill(peer)
  await fence
  await close()
})

test('an engine whose fence is its close refuses to fence one peer', async () => {
  const engine = await open(faulty, { fence: 'engine' })
  expect(engine.capabilities.fence).toBe('engine')
  await expect(engine.fence(newGeneration())).rejects.toEqual(code('ERR_KVX_INVALID_STATE'))
  await engine.close()
})

test('an engine that cannot be opened rejects with the reason and leaves nothing behind', async () => {
  await expect(open(faulty, { open: 'throw' })).rejects.toMatchObject({
    code: 'ERR_KVX_BACKEND_UNAVAILABLE',
    message: 'No such device.',
  })
  await expect(open(faulty, { open: 'alien' })).rejects.toMatchObject({
    code: 'ERR_KVX_INTERNAL',
    message: 'The driver threw: something else',
  })
  expect(faulty.world().drivers).toBe(0)
})

test('close ends everything that waits, settles every transfer, and is idempotent', async () => {
  const { connect, writer, owner, close } = await pair(faulty, { poll: 'pending' })
  const link = await connect()
  const transfer = link.write(reversed)
  const fence = writer.fence(newGeneration())
  const closing = writer.close()
  expect(writer.close()).toBe(closing)
  await expect(fence).rejects.toEqual(code('ERR_KVX_CLOSED'))
  await expect(transfer.done).rejects.toEqual(code('ERR_KVX_CLOSED'))
  await transfer.settled
  await closing
  const { generation } = owner.identity
  for (const late of [
    () => writer.register(allocate(4096)),
    () => writer.connect({ generation, address: owner.address, regions: [] }),
    () => writer.fence(newGeneration()),
    () => link.write(reversed).done,
  ]) {
    await expect(late()).rejects.toEqual(code('ERR_KVX_CLOSED'))
  }
  transfer.cancel()
  await link.close()
  await close()
})

test('closing waits a bounded time for what was posted and lets it succeed', async () => {
  const { connect, writer, close } = await pair(faulty, { poll: 'slowly' })
  const transfer = (await connect()).write(reversed)
  await vi.waitUntil(() => faulty.world().submits === 1)
  const closing = writer.close()
  faulty.finish()
  expect(await transfer.done).toMatchObject({ bytes: 4096 })
  await closing
  await close()
})

test('an engine that says bytes may still land rejects its close and settles nothing', async () => {
  const { connect, writer, owner } = await pair(faulty, {
    poll: 'pending',
    abandon: 'the device does not answer',
  })
  const transfer = (await connect()).write(reversed)
  const seen = watch(transfer)
  await vi.waitUntil(() => faulty.world().submits === 1)
  await expect(writer.close()).rejects.toMatchObject({
    code: 'ERR_KVX_INVALID_STATE',
    message: expect.stringContaining('the device does not answer') as string,
  })
  await expect(transfer.done).rejects.toEqual(code('ERR_KVX_CLOSED'))
  expect(seen.settled).toBe(false)
  await owner.close()
})

test('an engine that is gone frees its own memory, also when bytes that it sent may still land at a target', async () => {
  const { connect, writer, owner, source } = await pair(faulty, {
    poll: 'pending',
    unsettled: 'the target is cut off',
  })
  const transfer = (await connect()).write(reversed)
  const seen = watch(transfer)
  await vi.waitUntil(() => faulty.world().submits === 1)
  await expect(writer.close()).rejects.toMatchObject({
    code: 'ERR_KVX_UNSETTLED',
    message: expect.stringContaining('the target is cut off') as string,
  })
  expect(seen.settled).toBe(false)
  source.free()
  await owner.close()
})

test('a driver that goes on answering `failed` is asked ever more rarely', async () => {
  const { connect, close } = await pair(faulty, { poll: 'failLater', batch: 256 })
  const link = await connect()
  // Before the first poll that is counted: the machine may be slow to tell that the write has failed.
  const start = performance.now()
  const transfer = link.write(reversed)
  await expect(transfer.done).rejects.toEqual(code('ERR_KVX_TRANSFER_FAILED'))
  await vi.waitUntil(() => faulty.world().polls >= 20)
  // Steps of 50 µs that double up to 20 ms; a busy machine only makes them longer.
  expect(performance.now() - start).toBeGreaterThan(150)
  faulty.finish()
  await transfer.settled
  await close()
})

test('a transfer that nobody can end does not make the engine ask for another one more rarely', async () => {
  const { connect, close } = await pair(faulty, { poll: 'failLater' })
  const link = await connect()
  const first = link.write(reversed)
  await expect(first.done).rejects.toEqual(code('ERR_KVX_TRANSFER_FAILED'))
  for (let i = 0; i < 20; i++) {
    await expect(link.write(reversed).done).rejects.toEqual(code('ERR_KVX_TRANSFER_FAILED'))
  }
  faulty.finish()
  await first.settled
  await close()
})

/** Brings the driver into the call in which it is to stay. */
const ways: Record<string, (p: Awaited<ReturnType<typeof pair>>) => Promise<unknown>> = {
  register_memory: ({ writer }) => writer.register(allocate(4096)),
  deregister_memory: ({ sourceRegion }) => sourceRegion.deregister(),
  connect: ({ connect }) => connect(),
  disconnect: async ({ connect }) => (await connect()).close(),
  poll: async ({ connect }) => (await connect()).write(reversed).done,
  fenced: ({ writer }) => writer.fence(newGeneration()),
  close: ({ writer }) => writer.close(),
}
test.each(Object.keys(ways))(
  'a driver that does not return from %s does not hold up close, which names the call',
  async (call) => {
    // The registration of `pair` is not the one that gets stuck.
    const stuck = await pair(faulty, call === 'register_memory' ? {} : { stuckIn: call })
    const writer = call === 'register_memory' ? await open(faulty, { stuckIn: call }) : stuck.writer
    const way = ways[call]?.({ ...stuck, writer })
    const ended = expect(way).rejects.toMatchObject({ name: 'KvxError' })
    if (call !== 'close') await vi.waitUntil(() => faulty.world().blocked === 1)
    await expect(writer.close()).rejects.toMatchObject({
      code: 'ERR_KVX_INVALID_STATE',
      message: expect.stringContaining(`did not return from ${call}`) as string,
    })
    await ended
    if (call !== 'register_memory') {
      expect(() => {
        stuck.source.free()
      }).toThrow(code('ERR_KVX_INVALID_STATE'))
    }
    await stuck.owner.close()
    faulty.unstick()
    await vi.waitUntil(() => faulty.world().blocked === 0)
  },
)

test('an engine that does not start ends its open in time, and what comes late is destroyed', async () => {
  const { drivers } = faulty.world()
  await expect(open(faulty, { stuckIn: 'open' })).rejects.toMatchObject({
    code: 'ERR_KVX_BACKEND_UNAVAILABLE',
    message: expect.stringContaining('did not start within') as string,
  })
  faulty.unstick()
  await vi.waitUntil(() => faulty.world().blocked === 0 && faulty.world().drivers === drivers)
})

test('a process ends by itself although a driver call never returns', async () => {
  expect(await child('stuck')).toEqual({ code: 0, output: ['KvxError ERR_KVX_INVALID_STATE'] })
})

test('when no thread can be made, open and connect reject and the engine goes on', async () => {
  expect(await child('noThreads')).toEqual({
    code: 0,
    output: [
      'KvxError ERR_KVX_CONNECT_FAILED, names the limit',
      'KvxError ERR_KVX_BACKEND_UNAVAILABLE, names the limit',
      '{ bytes: 2048, segments: 1 }',
      '{ broken: [], drivers: 0, submits: 1, blocked: 0, polls: 1 }',
    ],
  })
})

test('a driver whose call does not return is left as it is, and close says so', async () => {
  const { connect, writer, owner, source } = await pair(faulty, { submit: 'stuck' })
  const transfer = (await connect()).write(reversed)
  await vi.waitUntil(() => faulty.world().blocked === 1)
  await expect(writer.close()).rejects.toThrow(/the driver did not return from submit/)
  await expect(transfer.done).rejects.toEqual(code('ERR_KVX_CLOSED'))
  // The stuck call may still read from it.
  expect(() => {
    source.free()
  }).toThrow(code('ERR_KVX_INVALID_STATE'))
  await owner.close()
  faulty.unstick()
  await vi.waitUntil(() => faulty.world().blocked === 0)
})

test('a write after the work of a device is posted once that is done, and not before', async () => {
  const { connect, close, source, destination } = await pair(faulty, { after: 'wait' })
  const link = await connect()
  for (const [after, kind, handle] of [
    [{ event: 2n ** 64n - 1n }, 1, 2n ** 64n - 1n],
    [{ stream: 2n }, 2, 2n],
  ] as const) {
    faulty.reset()
    const transfer = link.write(reversed, { after })
    await vi.waitUntil(() => faulty.lastWait().kind === kind)
    expect(faulty.lastWait().handle).toBe(handle)
    expect(faulty.world().submits).toBe(0)
    faulty.finish()
    await transfer.done
    expect(destination.view(0, 16)).toEqual(source.view(4080, 16))
  }
  await close()
})

test('a write after work that is never done ends at its deadline, and settles: nothing was posted', async () => {
  const { connect, close } = await pair(faulty, { after: 'wait' })
  const transfer = (await connect()).write(reversed, { after: { event: 1n }, deadlineMs: 30 })
  await expect(transfer.done).rejects.toEqual(code('ERR_KVX_TRANSFER_TIMEOUT'))
  await transfer.settled
  expect(faulty.world().submits).toBe(0)
  await close()
})

test('work of a device that cannot be waited for fails the write, and settles it', async () => {
  const throwing = await pair(faulty, { after: 'throw' })
  const failed = (await throwing.connect()).write(reversed, { after: { event: 1n } })
  await expect(failed.done).rejects.toThrow(/There is no such event/)
  await failed.settled
  for (const after of [{ event: -1n }, { stream: 7 }, {}, null, 5n] as never[]) {
    const wrong = (await throwing.connect()).write(reversed, { after })
    await expect(wrong.done).rejects.toEqual(code('ERR_KVX_INVALID_ARGUMENT'))
    await wrong.settled
  }
  await throwing.close()
  const { connect, close } = await pair(faulty)
  const refused = (await connect()).write(reversed, { after: { event: 1n } })
  await expect(refused.done).rejects.toEqual(code('ERR_KVX_INVALID_OPTION'))
  await refused.settled
  await close()
})

test('lanes that a driver copies by itself and the segments of the others are one transfer', async () => {
  const { connect, close, source, destination } = await pair(faulty, { lanes: 1, batch: 100 })
  const halves = [
    lane({ sourcePageBytes: 16, destinationPageBytes: 16 }),
    lane({
      sourcePageBytes: 16,
      destinationPageBytes: 16,
      sourceBase: 2048,
      destinationBase: 2048,
    }),
  ]
  const pages = Array.from({ length: 128 }, (_, i) => [i, 127 - i, 1] as [number, number, number])
  const transfer = (await connect()).write(planOf(halves, pages))
  expect(await transfer.done).toEqual({ bytes: 4096, segments: 256 })
  expect(faulty.world().submits).toBe(3)
  for (let page = 0; page < 128; page++) {
    for (const base of [0, 2048]) {
      const there = destination.view(base + (127 - page) * 16, 16)
      expect(there).toEqual(source.view(base + page * 16, 16))
    }
  }
  await close()
})

test('deadlines and timeouts that are no positive number are refused', async () => {
  const { connect, writer, owner, close } = await pair(faulty)
  const link = await connect()
  for (const bad of [0, -1, NaN, Infinity, '5' as unknown as number]) {
    const transfer = link.write(reversed, { deadlineMs: bad })
    await expect(transfer.done).rejects.toEqual(code('ERR_KVX_INVALID_ARGUMENT'))
    await transfer.settled
    const { generation } = owner.identity
    await expect(
      writer.connect({ generation, address: owner.address, regions: [] }, { timeoutMs: bad }),
    ).rejects.toEqual(code('ERR_KVX_INVALID_ARGUMENT'))
  }
  await close()
})

test('a done that nobody awaits is no unhandled rejection', async () => {
  const unhandled = vi.fn()
  process.on('unhandledRejection', unhandled)
  const { connect, close } = await pair(faulty, { poll: 'fail' })
  const link = await connect()
  await link.write(reversed).settled
  await link.write(undefined as never).settled
  await close()
  await new Promise((resolve) => setImmediate(resolve))
  expect(unhandled).not.toHaveBeenCalled()
  process.off('unhandledRejection', unhandled)
})

test('a handle of another kind throws and does not crash', () => {
  for (const bad of [undefined, null, 7, {}, 'engine']) {
    expect(() => faulty.describe(bad as never)).toThrow(/handle of a transfer engine/)
    expect(() => {
      faulty.write(bad as never, 1, 1, reversed.lanes, reversed.groups, reversed.blocks, 1)
    }).toThrow(/handle of a transfer engine/)
  }
})
