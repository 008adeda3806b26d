// Memory of GPUs. There is none here: the driver is that of packages/native/test/fake-cuda, whose GPUs have memory files. What
// only a real one can show is shown by tools/gpu.
import { createRequire } from 'node:module'
import { eachCopy, type Memory, type PeerAddress, type TransferEngine } from '@kvx/contract'
import { allocate } from '@kvx/native'
import shm from '@kvx/shm'
import fc from 'fast-check'
import { afterEach, beforeAll, expect, test } from 'vitest'
import {
  faults,
  forkEngine,
  peek,
  poke,
  useFakeGpus,
  wholeOf,
  wire,
  type ForkedEngine,
} from './gpu.ts'
import { open } from './processes.ts'

const MiB = 1 << 20
const closing: (() => unknown)[] = []

beforeAll(useFakeGpus)
afterEach(async () => {
  faults()
  for (const close of closing.splice(0).reverse()) await close()
})

const code = (name: string, message: RegExp) =>
  expect.objectContaining({
    code: name,
    message: expect.stringMatching(message) as string,
  }) as Error

async function forked(...given: Parameters<typeof forkEngine>): Promise<ForkedEngine> {
  const engine = await forkEngine(...given)
  closing.push(() => engine.kill())
  return engine
}

const peerOf = ({ started }: ForkedEngine): PeerAddress => {
  const { generation, address, regions } = started.answer as ReturnType<typeof wire>
  return {
    generation,
    address: Buffer.from(address, 'base64'),
    regions: regions.map((region) => Buffer.from(region, 'base64')),
  }
}

async function opened(): Promise<TransferEngine> {
  const engine = await open()
  closing.push(() => engine.close().catch(() => undefined))
  return engine
}

/** An engine with this memory: an ordinal is memory of that GPU, 'cpu' the host's. */
async function engineOf(bytes: number, places: readonly (number | 'cpu')[]) {
  const engine = await opened()
  const memories: Memory[] = []
  for (const place of places) {
    const memory =
      place === 'cpu' ? allocate(bytes) : await allocate(bytes, { kind: 'cuda', device: place })
    memories.push(memory)
  }
  const regions = []
  for (const memory of memories) regions.push((await engine.register(memory)).descriptor)
  const peer: PeerAddress = {
    generation: engine.identity.generation,
    address: engine.address,
    regions,
  }
  return { engine, memories, peer }
}

const contents = (memories: readonly Memory[]) =>
  memories.map(({ address, bytes }) => peek(address, bytes))

test('where there is a CUDA driver the engine takes its memory, and says which GPUs there are', async () => {
  const engine = await opened()
  expect(engine.capabilities).toMatchObject({ memoryKinds: ['cpu', 'cuda'], after: true })
  const { devices, devicesNote } = await shm.probe()
  expect(devices).toEqual(
    [0, 1].map((ordinal) => ({
      ...{ kind: 'cuda', ordinal, name: `Fake GPU ${String(ordinal)}` },
      uuid: expect.stringMatching(/^GPU-a[01]/) as string,
      facts: 'compute capability 9.0, 132 multiprocessors',
      reaches: [1 - ordinal],
      reason: undefined,
    })),
  )
  expect(devicesNote).toBe('CUDA 13.0')
})

/** Lanes between any regions of two sides of three, over disjoint parts of each destination. */
const plans = fc
  .record({
    lanes: fc.array(
      fc.record({
        source: fc.nat(2),
        destination: fc.nat(2),
        runBytes: fc.constantFrom(1, 3, 8, 16, 48, 272, 1024),
        runs: fc.integer({ min: 1, max: 4 }),
        gap: fc.nat(40),
      }),
      { minLength: 1, maxLength: 8 },
    ),
    pages: fc.integer({ min: 1, max: 12 }),
    seed: fc.nat(),
  })
  .map(({ lanes, pages, seed }) => {
    const order = Array.from({ length: pages }, (_, i) => i).sort(
      (a, b) => (((a + 1) * 7919 + seed) % 101) - (((b + 1) * 7919 + seed) % 101),
    )
    const ends = [0, 0, 0]
    const rows = lanes.flatMap(({ source, destination, runBytes, runs, gap }, i) => {
      const stride = runBytes + gap
      const page = stride * runs
      const base = ends[destination] ?? 0
      ends[destination] = base + page * pages
      return [source, destination, i * 16, base, page, page, runBytes, runs, stride, stride]
    })
    return {
      lanes: Float64Array.from(rows),
      groups: Int32Array.from(order.flatMap((to, from) => [from, to, 1])),
      blocks: Int32Array.of(0, pages, 0, lanes.length),
    }
  })

test('one plan moves between memory of GPUs and of the host every way, byte for byte, and nothing else', async () => {
  const bytes = 2 * MiB
  const places = ['cpu', 0, 1] as const
  const writer = await engineOf(bytes, places)
  const owner = await engineOf(bytes, places)
  const noise = Buffer.alloc(bytes)
  for (const [i, { address }] of writer.memories.entries()) {
    for (let at = 0; at < bytes; at++) noise[at] = (at * 31 + i * 7) % 251
    poke(address, noise)
  }
  const link = await writer.engine.connect(owner.peer)
  await fc.assert(
    fc.asyncProperty(plans, async (plan) => {
      const wanted = contents(owner.memories)
      const sources = contents(writer.memories)
      let moved = 0
      eachCopy(plan, (sourceRegion, source, destinationRegion, destination, count) => {
        const from = sources[sourceRegion]?.subarray(source, source + count) ?? Buffer.alloc(0)
        wanted[destinationRegion]?.set(from, destination)
        moved += count
      })
      const transfer = link.write(plan)
      expect((await transfer.done).bytes).toBe(moved)
      await transfer.settled
      const found = contents(owner.memories)
      expect(found.map((buffer, i) => buffer.equals(wanted[i] ?? Buffer.alloc(0)))).toEqual([
        true,
        true,
        true,
      ])
    }),
    { numRuns: 60 },
  )
})

test('pages of the host whose lanes lie together are written by a copy engine, and are byte for byte those of the lanes', async () => {
  const [lanes, run, pages] = [64, 16 * 1024, 3]
  const bytes = lanes * run * pages
  const writer = await engineOf(bytes, [0])
  const owner = await engineOf(bytes, ['cpu'])
  const [source] = writer.memories
  if (!source) throw new Error('unreachable')
  poke(
    source.address,
    Buffer.from(Array.from({ length: bytes }, (_, i) => (i * 31 + (i >> 9)) % 251)),
  )
  const link = await writer.engine.connect(owner.peer)
  const plan = {
    lanes: Float64Array.from(
      Array.from({ length: lanes }, (_, lane) => [
        ...[0, 0, lane * run * pages, lane * run, run, lanes * run],
        ...[run, 1, run, run],
      ]).flat(),
    ),
    groups: Int32Array.of(0, 2, 1, 1, 0, 1, 2, 1, 1),
    blocks: Int32Array.of(0, 3, 0, lanes),
  }
  faults('cuMemcpyAsync=2')
  const refused = link.write(plan)
  await expect(refused.done).rejects.toEqual(
    code('ERR_KVX_TRANSFER_FAILED', /cuMemcpyAsync failed/),
  )
  await refused.settled
  faults()
  expect((await link.write(plan).done).segments).toBe(lanes * pages)
  const wanted = Buffer.alloc(bytes)
  const [read] = contents(writer.memories)
  eachCopy(plan, (_, from, __, to, count) => {
    read?.copy(wanted, to, from, from + count)
  })
  expect(contents(owner.memories)[0]?.equals(wanted)).toBe(true)
})

test('memory of a GPU is handed to another process by descriptor, and of another GPU by UUID', async () => {
  const owner = await forked([{ kind: 'cuda', device: 0, bytes: 2 * MiB }], {
    CUDA_VISIBLE_DEVICES: '1',
  })
  // The owner calls it device 0; here it is 1.
  const writer = await forked([{ kind: 'cuda', device: 0, bytes: 2 * MiB, fill: 5 }], {
    CUDA_VISIBLE_DEVICES: '0',
  })
  await writer.get('connect', { peer: wire(peerOf(owner)) })
  await writer.get('write', { bytes: 2 * MiB })
  expect(await owner.get('digest', { region: 0 })).toBe(await writer.get('digest', { region: 0 }))
})

test('a host that hands over the handle or the descriptor itself needs no context', async () => {
  const engine = await opened()
  faults('cuDevicePrimaryCtxRetain=2')
  const base = { address: 4096n, bytes: MiB, kind: 'cuda' as const, device: 0 }
  const handle = new Uint8Array(64).fill(1)
  expect((await engine.register({ ...base, handle, offset: 4096 })).bytes).toBe(MiB)
  const { fd } = allocate(2 * MiB)
  expect((await engine.register({ ...base, fd, offset: 0 })).bytes).toBe(MiB)
  await expect(engine.register({ ...base, handle: handle.subarray(1) })).rejects.toEqual(
    code('ERR_KVX_MEMORY', /64 bytes of cuIpcGetMemHandle, not 63/),
  )
})

test('memory that no other process can be given is refused with the reason', async () => {
  const engine = await opened()
  const device = await allocate(2 * MiB, { kind: 'cuda' })
  const host = allocate(4096)
  const refused: [Partial<Memory>, RegExp][] = [
    [{ address: host.address }, /GPU|device/],
    [{ bytes: 64 * MiB }, /range|hole|mapped/i],
    [{ device: 7 }, /There is no GPU 7: this process sees 2/],
  ]
  for (const [change, reason] of refused) {
    const { address, bytes, kind } = device
    const registering = engine.register({ address, bytes, kind, device: 0, ...change })
    await expect(registering).rejects.toEqual(code('ERR_KVX_MEMORY', reason))
  }
  expect(await forkRefusal({ KVX_FAKE_CUDA_FAULTS: 'mps=1' })).toEqual(
    code('ERR_KVX_MEMORY', /through MPS, whose server goes on when a process is killed/),
  )
})

const forkRefusal = async (env: Record<string, string>) =>
  (await forked([{ kind: 'cuda', bytes: MiB }], env)).started

test('a GPU without a way to the other one refuses the connect, with the reason', async () => {
  const writer = await engineOf(2 * MiB, [0])
  const owner = await engineOf(2 * MiB, [1])
  faults('peers=0')
  await expect(writer.engine.connect(owner.peer)).rejects.toEqual(
    code('ERR_KVX_CONNECT_FAILED', /memory of GPU-a1.* cannot be mapped for GPU 0/),
  )
  faults()
  await (await writer.engine.connect(owner.peer)).close()
})

test('a process without a CUDA driver is told so when the owner has memory of a GPU', async () => {
  const owner = await forked([{ kind: 'cuda', bytes: 2 * MiB }])
  const writer = await forked([{ kind: 'cpu', bytes: 2 * MiB }], { KVX_CUDA_LIBRARY: '' })
  const { code: refused, message } = await writer.ask('connect', { peer: wire(peerOf(owner)) })
  expect(refused).toBe('ERR_KVX_CONNECT_FAILED')
  expect(message).toMatch(/memory of GPU-a0.*no CUDA driver/)
})

/** An event of the fake driver that was recorded and is not reached until `reach` is called. */
function awaitedEvent(): { readonly event: bigint; readonly reach: () => void } {
  const memory = allocate(16)
  const { buffer, byteOffset } = memory.view(0, 16)
  // How often it was recorded, and how many of those have been reached.
  const times = new BigUint64Array(buffer, byteOffset, 2)
  times.set([1n, 0n])
  return { event: memory.address, reach: () => (times[1] = 1n) }
}

test('a write waits for the event that it must come after, also between memory of the host', async () => {
  for (const place of [0, 'cpu'] as const) {
    const writer = await engineOf(2 * MiB, [place, 0])
    const owner = await engineOf(2 * MiB, [place])
    const link = await writer.engine.connect(owner.peer)
    const [source] = writer.memories
    const [destination] = owner.memories
    if (!source || !destination) throw new Error('unreachable')
    const { event, reach } = awaitedEvent()
    const transfer = link.write(wholeOf(2 * MiB), { after: { event } })
    const other = link.write(wholeOf(2 * MiB), { after: { event }, deadlineMs: 40 })
    await expect(other.done).rejects.toEqual(code('ERR_KVX_TRANSFER_TIMEOUT', /40 ms/))
    await other.settled
    poke(source.address, Buffer.alloc(2 * MiB, 9))
    expect(peek(destination.address, 1)[0]).toBe(0)
    reach()
    await transfer.done
    expect(peek(destination.address, 2 * MiB).every((byte) => byte === 9)).toBe(true)
  }
})

test('a write waits for what a stream was given before it: what is copied is what the stream leaves', async () => {
  const { busyStream } = createRequire(import.meta.url)('./fork/build/Release/stream.node') as {
    busyStream: (
      device: number,
      at: bigint,
      bytes: number,
      byte: number,
      times: number,
      event?: bigint,
    ) => bigint
  }
  for (const gpu of [0, 1]) {
    const writer = await engineOf(2 * MiB, [0, 1])
    const owner = await engineOf(2 * MiB, [1])
    const link = await writer.engine.connect(owner.peer)
    const { address } = writer.memories[gpu] ?? { address: 0n }
    const plan = wholeOf(2 * MiB)
    plan.lanes[0] = gpu
    const { event, reach } = awaitedEvent()
    const late = busyStream(gpu, address, 2 * MiB, 7, 20, event)
    const given = { after: { stream: late }, deadlineMs: 20 }
    await expect(link.write(plan, given).done).rejects.toEqual(
      code('ERR_KVX_TRANSFER_TIMEOUT', /20 ms/),
    )
    const transfer = link.write(plan, { after: { stream: late } })
    reach()
    await transfer.done
    expect(contents(owner.memories)[0]?.every((byte) => byte === 7)).toBe(true)
    const stream = busyStream(gpu, address, 2 * MiB, 9, 200)
    await link.write(plan, { after: { stream } }).done
    expect(contents(owner.memories)[0]?.every((byte) => byte === 9)).toBe(true)
  }
})

test('a launch that the driver refuses fails its transfer alone, and settles it', async () => {
  const writer = await engineOf(2 * MiB, [0])
  const owner = await engineOf(2 * MiB, [0])
  const link = await writer.engine.connect(owner.peer)
  faults('cuLaunchKernel=2')
  const transfer = link.write(wholeOf(2 * MiB))
  await expect(transfer.done).rejects.toEqual(
    code('ERR_KVX_TRANSFER_FAILED', /cuLaunchKernel failed: CUDA_ERROR_OUT_OF_MEMORY/),
  )
  await transfer.settled
  faults()
  await link.write(wholeOf(2 * MiB)).done
})

test('a host whose memory cannot be pinned is told when it is needed', async () => {
  const writer = await engineOf(2 * MiB, [0, 'cpu'])
  const owner = await engineOf(2 * MiB, ['cpu'])
  const link = await writer.engine.connect(owner.peer)
  faults('cuMemHostRegister=2')
  const transfer = link.write(wholeOf(2 * MiB))
  await expect(transfer.done).rejects.toEqual(code('ERR_KVX_MEMORY', /cuMemHostRegister/))
  await transfer.settled
  faults()
  await link.write(wholeOf(2 * MiB)).done
})

test('an error that CUDA cannot recover from ends the engine with its reason, and the process lives on', async () => {
  const writer = await forked([{ kind: 'cuda', bytes: 2 * MiB }])
  const owner = await engineOf(2 * MiB, [0])
  await writer.get('connect', { peer: wire(owner.peer) })
  await writer.get('faults', { text: 'kernel=719' })
  const unusable = /CUDA_ERROR_LAUNCH_FAILED.*unusable from now on/
  for (let round = 0; round < 2; round++) {
    const { code: failed, message } = await writer.ask('write', { bytes: 2 * MiB })
    expect(failed).toBe('ERR_KVX_TRANSFER_FAILED')
    expect(message).toMatch(unusable)
  }
  // What it may still touch is not given back: the owner's fence waits for the end of the process.
  const closed = await writer.ask('close')
  expect(closed.message).toMatch(unusable)
  const { generation } = peerOf(writer)
  const fence = owner.engine.fence(generation)
  await expect(
    owner.engine.fence(generation, { signal: AbortSignal.timeout(100) }),
  ).rejects.toMatchObject({ code: 'ERR_KVX_ABORTED' })
  expect(await writer.get('bytes', { region: 0, count: 1 })).toBe('0')
  await writer.kill()
  await fence
})

test('a copy that never ends fails at its deadline, and only the end of the process settles it', async () => {
  const writer = await forked([{ kind: 'cuda', bytes: 2 * MiB }])
  const owner = await engineOf(2 * MiB, [0])
  await writer.get('connect', { peer: wire(owner.peer) })
  await writer.get('faults', { text: 'event=never' })
  const { code: late } = await writer.ask('write', { bytes: 2 * MiB, deadlineMs: 50 })
  expect(late).toBe('ERR_KVX_TRANSFER_TIMEOUT')
  const { message } = await writer.ask('close')
  expect(message).toMatch(/Copies of GPU 0 did not end within/)
  const { generation } = peerOf(writer)
  await expect(
    owner.engine.fence(generation, { signal: AbortSignal.timeout(100) }),
  ).rejects.toMatchObject({ code: 'ERR_KVX_ABORTED' })
  await writer.kill()
  await owner.engine.fence(generation)
})

test('transfers that are cancelled in any state settle, and what comes after them is right', async () => {
  const bytes = 2 * MiB
  const writer = await engineOf(bytes, [0, 'cpu'])
  const owner = await engineOf(bytes, [1, 'cpu'])
  const link = await writer.engine.connect(owner.peer)
  const both = {
    lanes: Float64Array.from([0, 1].flatMap((r) => [r, r, 0, 0, 4096, 4096, 4096, 1, 4096, 4096])),
    groups: Int32Array.from(Array.from({ length: 512 }, (_, i) => [i, 511 - i, 1]).flat()),
    blocks: Int32Array.of(0, 512, 0, 2),
  }
  for (let round = 0; round < 200; round++) {
    const transfer = link.write(both)
    if (round % 3 > 0) await new Promise((resolve) => setImmediate(resolve))
    transfer.cancel()
    await transfer.done.catch((error: unknown) => {
      expect(error).toEqual(code('ERR_KVX_ABORTED', /cancelled/))
    })
    await transfer.settled
  }
  for (const { address } of writer.memories) poke(address, Buffer.alloc(bytes, 6))
  await link.write(both).done
  for (const found of contents(owner.memories)) {
    expect(found.every((byte) => byte === 6)).toBe(true)
  }
})

test('writes between GPUs land in the order in which they were written, also when some are cancelled', async () => {
  const bytes = 2 * MiB
  const writer = await engineOf(bytes, [0, 0])
  const owner = await engineOf(bytes, [1])
  const link = await writer.engine.connect(owner.peer)
  for (const [i, { address }] of writer.memories.entries()) poke(address, Buffer.alloc(bytes, i))
  const from = (region: number) => {
    const plan = wholeOf(bytes)
    plan.lanes[0] = region
    return plan
  }
  for (let round = 0; round < 60; round++) {
    const last = round % 2
    // The first is alone; the next come behind it, or after it when they have waited.
    const transfers = [link.write(from(1 - last)), link.write(from(1 - last))]
    if (round % 3 > 0) transfers[round % 3 === 1 ? 0 : 1]?.cancel()
    if (round % 4 === 0) await new Promise((resolve) => setImmediate(resolve))
    transfers.push(link.write(from(last)))
    const ends = await Promise.allSettled(transfers.map(({ done }) => done))
    expect(ends.at(-1)).toEqual({ status: 'fulfilled', value: { bytes, segments: 1 } })
    for (const end of ends) {
      if (end.status === 'rejected') {
        expect(end.reason).toEqual(code('ERR_KVX_ABORTED', /cancelled/))
      }
    }
    expect(contents(owner.memories)[0]?.every((byte) => byte === last)).toBe(true)
    for (const { settled } of transfers) await settled
  }
})

test('fence: a link that was closed in order resolves it, though the process and its GPU live', async () => {
  for (const place of [0, 'cpu'] as const) {
    const writer = await engineOf(2 * MiB, [0])
    const owner = await engineOf(2 * MiB, [place])
    const link = await writer.engine.connect(owner.peer)
    await link.write(wholeOf(2 * MiB)).done
    const { generation } = writer.engine.identity
    await expect(
      owner.engine.fence(generation, { signal: AbortSignal.timeout(20) }),
    ).rejects.toMatchObject({ code: 'ERR_KVX_ABORTED' })
    await link.close()
    await owner.engine.fence(generation)
  }
})

test('fence: a writer that is killed while its GPU writes, to a GPU or to the host: nothing lands after it', async () => {
  for (const place of [1, 'cpu'] as const) {
    const owner = await engineOf(2 * MiB, [place])
    const writer = await forked([{ kind: 'cuda', bytes: 2 * MiB, fill: 3 }])
    await writer.get('connect', { peer: wire(owner.peer) })
    await writer.get('writeOn', { bytes: 2 * MiB })
    const fence = owner.engine.fence(peerOf(writer).generation)
    await writer.kill()
    await fence
    const [memory] = owner.memories
    poke(memory?.address ?? 0n, Buffer.alloc(2 * MiB, 8))
    await new Promise((resolve) => setImmediate(resolve))
    expect(contents(owner.memories)[0]?.every((byte) => byte === 8)).toBe(true)
  }
})

test('fence: a child that the writer forked holds its GPU: the end of the writer alone is not enough', async () => {
  const owner = await engineOf(2 * MiB, [1])
  const gone: string[] = []
  owner.engine.onPeerGone?.((generation) => gone.push(generation))
  const writer = await forked([{ kind: 'cuda', bytes: 2 * MiB, fill: 3 }])
  await writer.get('connect', { peer: wire(owner.peer) })
  await writer.get('write', { bytes: 2 * MiB })
  const child = await writer.get<number>('fork', { bytes: 2 * MiB })
  const { generation } = peerOf(writer)
  await writer.kill()
  const early = owner.engine.fence(generation, { signal: AbortSignal.timeout(300) })
  await expect(early).rejects.toMatchObject({ code: 'ERR_KVX_ABORTED' })
  // That the writer is gone is true and was told; that nothing can land any more is not.
  expect(gone).toEqual([generation])
  const before = contents(owner.memories)[0]
  await expect.poll(() => contents(owner.memories)[0]?.equals(before ?? Buffer.of())).toBe(false)
  process.kill(child, 'SIGKILL')
  await owner.engine.fence(generation)
  const after = contents(owner.memories)[0]
  await new Promise((resolve) => setImmediate(resolve))
  expect(contents(owner.memories)[0]?.equals(after ?? Buffer.of())).toBe(true)
})

test('an owner that dies is told by its socket and process: the GPU copies on without an error', async () => {
  const owner = await forked([{ kind: 'cuda', bytes: 2 * MiB }])
  const writer = await engineOf(2 * MiB, [0])
  const link = await writer.engine.connect(peerOf(owner))
  await link.write(wholeOf(2 * MiB)).done
  await owner.kill()
  const transfer = link.write(wholeOf(2 * MiB))
  await expect(transfer.done).rejects.toEqual(code('ERR_KVX_PEER_LOST', /is gone/))
  await transfer.settled
})

test('engines that come and go leave no socket, no process and no thread of theirs behind', async () => {
  const { readdirSync, readFileSync, readlinkSync } = await import('node:fs')
  // Memory files end with what holds them, when it is collected.
  const ours = (): unknown => ({
    files: readdirSync('/proc/self/fd').filter((fd) => {
      try {
        return /^socket:|pidfd|eventfd|eventpoll/.test(readlinkSync(`/proc/self/fd/${fd}`))
      } catch {
        return false // the folder itself, which is closed again
      }
    }).length,
    threads: readdirSync('/proc/self/task').filter((task) =>
      readFileSync(`/proc/self/task/${task}/comm`, 'utf8').startsWith('kvx'),
    ).length,
  })
  const round = async (): Promise<unknown> => {
    const writer = await engineOf(2 * MiB, [0])
    const owner = await engineOf(2 * MiB, [1])
    const link = await writer.engine.connect(owner.peer)
    await link.write(wholeOf(2 * MiB)).done
    await Promise.all([writer.engine.close(), owner.engine.close()])
    for (const memory of [...writer.memories, ...owner.memories]) {
      await (memory as Memory & { free(): unknown }).free()
    }
    return ours()
  }
  const first = await round()
  for (let i = 0; i < 5; i++) expect(await round()).toEqual(first)
})

test('digests of memory of a GPU are those of the same bytes in memory of the host', async () => {
  const bytes = 2 * MiB
  const { engine, memories } = await engineOf(bytes, ['cpu', 0, 1])
  for (const { address } of memories) {
    poke(address, Buffer.from(Array.from({ length: bytes }, (_, i) => (i * 131) % 256)))
  }
  const job = (region: number) => [region, 64, 8192, 16, 4, 0, 128, 128, 512, 128, 128]
  const digests = await engine.digest({
    pageTokens: 16,
    tensors: Float64Array.from([0, 1, 2].flatMap(job)),
    keys: BigUint64Array.of(11n, 11n, 11n),
    runs: Int32Array.of(3, 0, 40, 0, 9, 2, 5, 40),
  })
  const [host, first, second] = [0, 16, 32].map((at) => digests.subarray(at, at + 16))
  expect(first).toEqual(host)
  expect(second).toEqual(host)
  expect(host?.some((byte) => byte !== 0)).toBe(true)
})

test('a digest at which the GPU fails says so, and is no fault of the job', async () => {
  const { engine } = await engineOf(2 * MiB, [0])
  const job = {
    pageTokens: 1,
    tensors: Float64Array.of(0, 0, 64, 1, 1, 0, 64, 64, 64, 64, 64),
    keys: BigUint64Array.of(1n),
    runs: Int32Array.of(0, 0, 1, 0),
  }
  faults('cuLaunchKernel=2')
  await expect(engine.digest(job)).rejects.toEqual(
    code('ERR_KVX_TRANSFER_FAILED', /cuLaunchKernel failed: CUDA_ERROR_OUT_OF_MEMORY \(2\)\.$/),
  )
  faults()
  expect(await engine.digest(job)).toHaveLength(16)
  await expect(engine.digest({ ...job, pageTokens: 0 })).rejects.toEqual(
    code('ERR_KVX_PLAN_INVALID', /pageTokens/),
  )
})

test('an engine opened and closed with memory of the host only never loads CUDA', async () => {
  const engine = await forked([{ kind: 'cpu', bytes: 4096 }])
  const { readFileSync } = await import('node:fs')
  const maps = readFileSync(`/proc/${String(engine.child.pid)}/maps`, 'utf8')
  expect(maps).not.toContain('fakecuda')
  await engine.get('close')
})
