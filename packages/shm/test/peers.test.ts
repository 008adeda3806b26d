import { readdirSync, readFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import type { TransferEngine } from '@kvx/contract'
import { allocate } from '@kvx/native'
import { expect, test } from 'vitest'
import { forkOwner, forkWriter, newGeneration, open, pair, scattered } from './processes.ts'

const bytes = 1 << 20
const whole = scattered(bytes, [0])
const code = (name: string) => expect.objectContaining({ name: 'KvxError', code: name }) as Error

/** An address with one of its lines replaced. */
function altered(address: Uint8Array, line: number, text: string): Buffer {
  const lines = Buffer.from(address).toString().split('\n')
  lines[line] = text
  return Buffer.from(lines.join('\n'))
}

test('a connect is refused with the reason: other host, other container, other generation', async () => {
  const { writer, peer, close } = await pair(bytes)
  const refused: [Partial<typeof peer>, RegExp][] = [
    [{ address: altered(peer.address, 1, 'another-boot-id') }, /another host/],
    [{ address: altered(peer.address, 2, 'pid:[1]') }, /another PID namespace/],
    [{ generation: newGeneration() }, /belongs to generation/],
    [{ address: altered(peer.address, 3, 'kvx-shm-nobody') }, /is gone/],
    [{ address: altered(peer.address, 0, 'mori/1') }, /not one of @kvx\/shm/],
    [{ address: new Uint8Array() }, /not one of @kvx\/shm/],
    [{ address: new Uint8Array(10_000).fill(10) }, /not one of @kvx\/shm/],
    [{ regions: [new Uint8Array(8)] }, /descriptor is not one of @kvx\/shm/],
  ]
  for (const [change, reason] of refused) {
    const connecting = writer.connect({ ...peer, ...change })
    await expect(connecting).rejects.toEqual(code('ERR_KVX_CONNECT_FAILED'))
    await expect(connecting).rejects.toThrow(reason)
  }
  await close()
})

test('an engine that took the socket of a closed generation refuses what was meant for that one', async () => {
  const { writer, peer, owner, close } = await pair(bytes)
  // The address says so consistently, but it leads to an engine of another generation.
  const stale = newGeneration()
  const connecting = writer.connect({
    ...peer,
    generation: stale,
    address: altered(peer.address, 4, stale),
  })
  await expect(connecting).rejects.toThrow(`the engine of generation ${stale} is closed`)
  expect(owner.identity.generation).not.toBe(stale)
  await close()
})

test('a region that is not registered any more is refused at connect', async () => {
  const { writer, peer, region, close } = await pair(bytes)
  await region.deregister()
  await expect(writer.connect(peer)).rejects.toThrow(/region 0 is not registered any more/)
  await close()
})

test('an owner that has no descriptor left answers fences while somebody knocks, and lets them in later', async () => {
  const owner = await forkOwner(bytes, 64)
  const writer = await open()
  await writer.register(allocate(bytes))
  expect(await owner.ask('exhaust')).toBe('EMFILE')
  const connecting = writer.connect(owner.peer, { timeoutMs: 50_000 })
  const generations = Array.from({ length: 100 }, newGeneration)
  await owner.ask('fences', { generations })
  await owner.ask('relieve')
  await (await connecting).write(whole).done
  await writer.close()
  await owner.kill()
})

/** What an engine tells of peers that are gone: all so far, and the next one. */
function goners(engine: TransferEngine) {
  const told: string[] = []
  let resolve: (generation: string) => void = () => undefined
  engine.onPeerGone?.((generation) => {
    told.push(generation)
    resolve(generation)
  })
  return { told, next: () => new Promise<string>((heard) => (resolve = heard)) }
}

test('a writer is told that its owner was killed, or has closed its engine, without asking', async () => {
  const writer = await open()
  await writer.register(allocate(bytes))
  const gone = goners(writer)
  for (const how of ['kill', 'close'] as const) {
    const owner = await forkOwner(bytes)
    await writer.connect(owner.peer)
    const news = gone.next()
    if (how === 'kill') await owner.kill()
    else await owner.ask('close')
    expect(await news).toBe(owner.peer.generation)
    if (how === 'close') await owner.kill()
  }
  await writer.close()
})

test('an owner is told that its writer was killed, also while it writes, and not that a link was closed', async () => {
  const { writer, owner, peer, close } = await pair(bytes)
  const gone = goners(owner)
  await (await writer.connect(peer)).close()
  const killed = await forkWriter(peer, { bytes })
  const news = gone.next()
  await killed.kill()
  expect(await news).toBe(killed.generation)
  await owner.fence(killed.generation)
  expect(gone.told).toEqual([killed.generation])
  await close()
})

test('an owner that was killed is refused at connect', async () => {
  const owner = await forkOwner(4096)
  await owner.kill()
  const writer = await open()
  await expect(writer.connect(owner.peer)).rejects.toThrow(/owner of the memory is gone/)
  await writer.close()
})

test('writes to an owner that was killed fail as a lost peer, also after an idle time', async () => {
  const owner = await forkOwner(bytes)
  const writer = await open()
  await writer.register(allocate(bytes))
  const link = await writer.connect(owner.peer)
  await link.write(whole).done
  await owner.kill()
  const transfer = link.write(whole)
  await expect(transfer.done).rejects.toEqual(code('ERR_KVX_PEER_LOST'))
  await transfer.settled
  await writer.close()
})

test('an owner that is killed in the middle of writes fails them, and all of them settle', async () => {
  const owner = await forkOwner(bytes)
  const writer = await open()
  await writer.register(allocate(bytes))
  const link = await writer.connect(owner.peer)
  const transfers = Array.from({ length: 100 }, () =>
    link.write(scattered(64, [...Array(16_384).keys()].reverse())),
  )
  const outcomes = Promise.allSettled(transfers.map(({ done }) => done))
  await transfers[0]?.done
  await owner.kill()
  const last = link.write(whole)
  await expect(last.done).rejects.toEqual(code('ERR_KVX_PEER_LOST'))
  for (const outcome of await outcomes) {
    if (outcome.status === 'rejected') expect(outcome.reason).toEqual(code('ERR_KVX_PEER_LOST'))
  }
  await Promise.all(transfers.map(({ settled }) => settled))
  await writer.close()
})

test('writes to an owner whose engine was closed fail as a lost peer', async () => {
  const { writer, peer, owner, close } = await pair(bytes)
  const link = await writer.connect(peer)
  await owner.close()
  await expect(link.write(whole).done).rejects.toThrow(/has closed the engine that owns the memory/)
  await expect(writer.connect(peer)).rejects.toThrow(/is gone/)
  await close()
})

test('fence resolves once the writer is killed, and then nothing changes any more', async () => {
  const owner = await open()
  const memory = allocate(bytes)
  const region = await owner.register(memory)
  const peer = {
    generation: owner.identity.generation,
    address: owner.address,
    regions: [region.descriptor],
  }
  const writer = await forkWriter(peer, { bytes, fill: 7 })
  expect(writer.first).toEqual({ event: 'writing' })
  let fenced = false
  const fence = owner.fence(writer.generation).then(() => (fenced = true))
  // It is alive and writes: an answer that took a round trip through the engine comes first.
  await region.deregister()
  expect(fenced).toBe(false)
  await writer.kill()
  await fence
  memory.view(0, bytes).fill(9)
  await new Promise((resolve) => setImmediate(resolve))
  expect(memory.view(0, bytes).every((byte) => byte === 9)).toBe(true)
  await owner.close()
})

test('fence resolves once the writer has closed its engine, though its process lives', async () => {
  const { writer, peer, owner, close } = await pair(bytes)
  const link = await writer.connect(peer)
  let fenced = false
  const fence = owner.fence(writer.identity.generation).then(() => (fenced = true))
  await link.write(whole).done
  expect(fenced).toBe(false)
  await link.close()
  await fence
  await close()
})

test('a generation that never connected is barred for good, at once', async () => {
  const { writer, peer, owner, close } = await pair(bytes)
  await owner.fence(writer.identity.generation)
  await expect(writer.connect(peer)).rejects.toThrow(/generation was fenced off/)
  const another = await open()
  await (await another.connect(peer)).close()
  await another.close()
  await close()
})

test('an owner in another process can fence its writer', async () => {
  const owner = await forkOwner(bytes)
  const writer = await open()
  await writer.register(allocate(bytes))
  const link = await writer.connect(owner.peer)
  await link.write(whole).done
  const fenced = owner.ask('fence', { generation: writer.identity.generation })
  await writer.close()
  expect(await fenced).toBe(null)
  await owner.kill()
})

test.skipIf(process.getuid?.() !== 0)(
  'a process of another user is refused (skipped unless root)',
  async () => {
    const owner = await open()
    const region = await owner.register(allocate(bytes))
    const peer = {
      generation: owner.identity.generation,
      address: owner.address,
      regions: [region.descriptor],
    }
    const writer = await forkWriter(peer, { bytes, user: 65_534 })
    expect(writer.first).toMatchObject({
      event: 'failed',
      code: 'ERR_KVX_CONNECT_FAILED',
      message: 'The owner of the memory runs as another user.',
    })
    await writer.kill()
    await owner.close()
  },
)

test('a killed owner leaves no file and no socket behind', async () => {
  const before = new Set(readdirSync(tmpdir()))
  const owner = await forkOwner(bytes)
  const socket = Buffer.from(owner.peer.address).toString().split('\n')[3] ?? 'missing'
  const sockets = (): string => readFileSync('/proc/net/unix', 'utf8')
  expect(sockets()).toContain(socket)
  await owner.kill()
  expect(sockets()).not.toContain(socket)
  expect(readdirSync('/dev/shm').filter((name) => name.includes('kvx'))).toEqual([])
  expect(readdirSync(tmpdir()).filter((n) => n.startsWith('kvx-shm') && !before.has(n))).toEqual([])
})

test('memory without a file, or with one that could shrink, is refused', async () => {
  const engine = await open()
  const memory = allocate(4096)
  const { fd, ...withoutFile } = memory
  await expect(engine.register(withoutFile)).rejects.toEqual(code('ERR_KVX_MEMORY'))
  await expect(engine.register(withoutFile)).rejects.toThrow(/allocate\(\)/)
  await expect(engine.register({ ...memory, bytes: 8192 })).rejects.toThrow(/hold the whole range/)
  await expect(engine.register({ ...memory, fd: 0 })).rejects.toEqual(code('ERR_KVX_MEMORY'))
  expect(fd).toBeGreaterThan(2)
  await engine.close()
})
