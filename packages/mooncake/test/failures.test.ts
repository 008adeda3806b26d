import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import { isKvxError, type Transfer } from '@kvx/contract'
import { allocate } from '@kvx/native'
import { beforeAll, expect, test, vi } from 'vitest'
import { installMooncake, openEngine, Peer } from './peer.ts'
import { scattered } from './plans.ts'

vi.setConfig({ testTimeout: 180_000 })
beforeAll(installMooncake, 300_000)

const mebi = 2 ** 20
const size = 64 * mebi
/** In reverse order, so that pieces cannot be merged. */
const reversed = (pages: number) => scattered(pages, size / pages, (page) => pages - 1 - page)
const everything = reversed(size / mebi)

/** A writer with memory full of `value`, linked to a new peer process. */
async function linked(value: number) {
  const peer = new Peer(size)
  const target = await peer.open()
  const engine = await openEngine()
  const memory = allocate(size)
  memory.view(0, size).fill(value)
  await engine.register(memory)
  const link = await engine.connect(target)
  return {
    peer,
    target,
    engine,
    memory,
    link,
    [Symbol.asyncDispose]: () => peer[Symbol.asyncDispose](),
  }
}

async function rejection(
  promise: Promise<unknown>,
): Promise<{ code: string; ms: number; message: string }> {
  const begin = performance.now()
  try {
    await promise
  } catch (error) {
    if (isKvxError(error))
      return { code: error.code, message: error.message, ms: performance.now() - begin }
    throw error
  }
  throw new Error('It was expected to reject.')
}

async function isPending(promise: Promise<unknown>): Promise<boolean> {
  const still = Symbol('pending')
  return (await Promise.race([promise, Promise.resolve(still)])) === still
}

/** Resolves once nothing listens at the engine's address any more, which is when it has been destroyed. */
async function untilDestroyed(address: Uint8Array): Promise<void> {
  const port = Number(Buffer.from(address).toString('latin1').split(':').at(-1))
  for (;;) {
    const socket = connect({ host: '127.0.0.1', port })
    const refused = await new Promise<boolean>((resolve) => {
      socket.once('connect', () => {
        resolve(false)
      })
      socket.once('error', () => {
        resolve(true)
      })
    })
    socket.destroy()
    if (refused) return
  }
}

/** TCP ports on which this process listens. */
function listeningPorts(): number[] {
  const own = new Set<string>()
  for (const number of readdirSync('/proc/self/fd')) {
    try {
      own.add(/^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/self/fd/${number}`))?.[1] ?? '')
    } catch {
      // The descriptor of the folder itself.
    }
  }
  const listen = '0A'
  return ['tcp', 'tcp6']
    .flatMap((name) => readFileSync(`/proc/net/${name}`, 'utf8').split('\n').slice(1))
    .map((line) => line.trim().split(/\s+/))
    .filter(([, , , state, , , , , , inode]) => state === listen && own.has(inode ?? ''))
    .map(([, local]) => Number.parseInt(local?.split(':')[1] ?? '', 16))
}

/** Stops the peer once bytes of the transfer are in it, so that more of them are on their way. */
async function stopMidway(peer: Peer, write: () => Transfer): Promise<Transfer> {
  await peer.freeze()
  const transfer = write()
  await expect.poll(() => isPending(transfer.done)).toBe(true)
  return transfer
}

test('a target that is killed during a write fails it soon, settles it, and a new target can be used', async () => {
  await using both = await linked(1)
  const { peer, engine, link } = both
  const first = await stopMidway(peer, () => link.write(everything, { deadlineMs: 20_000 }))
  const outcome = rejection(first.done)
  peer.signal('SIGKILL')
  const { code, ms } = await outcome
  expect(code).toBe('ERR_KVX_TRANSFER_FAILED')
  expect(ms).toBeLessThan(10_000)
  await first.settled

  await using next = new Peer(size)
  const again = await engine.connect(await next.open())
  await again.write(everything).done
  expect(await next.ask('others', { value: 1 })).toBe(0)
  await engine.close()
})

test('a write to a dead target fails before its deadline', async () => {
  await using both = await linked(1)
  const { peer, engine, link } = both
  await peer[Symbol.asyncDispose]()
  const { done, settled } = link.write(everything, { deadlineMs: 20_000 })
  const { code, ms } = await rejection(done)
  expect(code).toBe('ERR_KVX_TRANSFER_FAILED')
  expect(ms).toBeLessThan(10_000)
  await settled
  await engine.close()
})

test('a stopped target makes done reject at the deadline and not settle; when it goes on, all of it settles', async () => {
  await using both = await linked(2)
  const { peer, engine, link } = both
  const begin = performance.now()
  const { done, settled } = await stopMidway(peer, () =>
    link.write(everything, { deadlineMs: 1000 }),
  )
  const { code } = await rejection(done)
  expect(code).toBe('ERR_KVX_TRANSFER_TIMEOUT')
  const ms = performance.now() - begin
  expect(ms).toBeGreaterThan(900)
  expect(ms).toBeLessThan(20_000)
  expect(await isPending(settled)).toBe(true)
  peer.signal('SIGCONT')
  await settled
  expect(await peer.ask('others', { value: 2 })).toBe(0)
  await engine.close()
})

test('while one target is stopped, another one is written to without delay', async () => {
  await using both = await linked(3)
  const { peer, engine, link } = both
  await using other = new Peer(size)
  const second = await engine.connect(await other.open())
  const stuck = await stopMidway(peer, () => link.write(everything, { deadlineMs: 20_000 }))
  for (let round = 0; round < 5; round++)
    await second.write(everything, { deadlineMs: 10_000 }).done
  // None of them has waited for the end of it.
  expect(await isPending(stuck.done)).toBe(true)
  peer.signal('SIGCONT')
  await stuck.done
  await engine.close()
})

test('connecting to a stopped process fails at its timeout, and holds up nobody meanwhile', async () => {
  await using both = await linked(3)
  const { engine } = both
  await using stopped = new Peer(mebi)
  const address = await stopped.open()
  await using other = new Peer(size)
  const reachable = await other.open()
  await stopped.freeze()
  const refused = rejection(engine.connect(address, { timeoutMs: 5000 }))
  const link = await engine.connect(reachable)
  await link.write(everything).done
  expect(await isPending(refused)).toBe(true)
  const { code, ms, message } = await refused
  expect(code).toBe('ERR_KVX_CONNECT_FAILED')
  expect(ms).toBeGreaterThan(4900)
  expect(ms).toBeLessThan(20_000)
  expect(message).toMatch(/did not answer in time/)
  const begin = performance.now()
  await engine.close()
  expect(performance.now() - begin).toBeLessThan(20_000)
})

test('a writer that closes while its target is stopped says that it cannot promise anything', async () => {
  await using both = await linked(4)
  const { peer, engine, link } = both
  const { done, settled } = await stopMidway(peer, () =>
    link.write(everything, { deadlineMs: 500 }),
  )
  await rejection(done)
  const { message } = await rejection(engine.close())
  expect(message).toMatch(/may still land.*has not read everything/)
  expect(await isPending(settled)).toBe(true)
})

test('a writer that closes settles what it wrote once the target has read the rest of it', async () => {
  await using both = await linked(5)
  const { peer, engine, link } = both
  const { done, settled } = await stopMidway(peer, () =>
    link.write(everything, { deadlineMs: 500 }),
  )
  await rejection(done)
  const closed = engine.close()
  await untilDestroyed(engine.address)
  expect(await isPending(settled)).toBe(true)
  peer.signal('SIGCONT')
  await closed
  await settled
  await peer.ask('fill', { value: 6 })
  await peer.ask('digest') // a moment in which more could land
  expect(await peer.ask('others', { value: 6 })).toBe(0)
})

test('bytes of a failed write do land later when the target does not close its engine, which is why pages are quarantined', async () => {
  await using both = await linked(8)
  const { peer, engine, link } = both
  const { done, settled } = await stopMidway(peer, () =>
    link.write(everything, { deadlineMs: 500 }),
  )
  await rejection(done)
  const filled = peer.ask('fill', { value: 9 })
  peer.signal('SIGCONT')
  await filled
  await settled
  expect(await peer.ask('others', { value: 9 })).toBeGreaterThan(0)
  await engine.close()
})

test('after a stopped target has closed its engine, no byte of an earlier write lands in its memory', async () => {
  await using both = await linked(8)
  const { peer, engine, link } = both
  const { done, settled } = await stopMidway(peer, () =>
    link.write(everything, { deadlineMs: 500 }),
  )
  await rejection(done)
  const fenced = peer.ask('fenceAndFill', { value: 9 })
  peer.signal('SIGCONT')
  await fenced
  await settled // its engine is gone, which the writer notices
  expect(await peer.ask('others', { value: 9 })).toBe(0)

  // The same memory under a new generation: the old link does not reach it, a new one does.
  const next = await peer.open()
  expect((await rejection(link.write(everything, { deadlineMs: 5000 }).done)).code).toBe(
    'ERR_KVX_TRANSFER_FAILED',
  )
  expect(await peer.ask('others', { value: 9 })).toBe(0)
  const again = await engine.connect(next)
  await again.write(everything).done
  expect(await peer.ask('others', { value: 8 })).toBe(0)
  await engine.close()
})

test('an address of an engine that was closed is refused, also when its process lives on', async () => {
  await using both = await linked(1)
  const { peer, target, engine } = both
  await peer.ask('close')
  await peer.open()
  const { code, message } = await rejection(engine.connect(target, { timeoutMs: 5000 }))
  expect(code).toBe('ERR_KVX_CONNECT_FAILED')
  expect(message).toMatch(/it was closed, or its process was replaced/)
  await engine.close()
})

test('the ports of a closed engine are not given out again while its process lives', async () => {
  const engine = await openEngine()
  const ports = listeningPorts()
  expect(ports.length).toBeGreaterThanOrEqual(2)
  await engine.close()
  for (const port of ports) {
    const server = createServer()
    const code = await new Promise((resolve) => {
      server.once('error', (error: NodeJS.ErrnoException) => {
        resolve(error.code)
      })
      server.listen(port, () => {
        resolve('listening')
      })
    })
    server.close()
    expect(code).toBe('EADDRINUSE')
  }
})

test('an engine of another generation at the same address is noticed', async () => {
  await using both = await linked(1)
  const { target, engine } = both
  const { code, message } = await rejection(
    engine.connect({ ...target, generation: 'f'.repeat(32) }),
  )
  expect(code).toBe('ERR_KVX_CONNECT_FAILED')
  expect(message).toMatch(/another engine than the one that was meant/)
  await engine.close()
})

test('more pieces than Mooncake queues for one peer all arrive, however slow the peer is', async () => {
  await using both = await linked(6)
  const { peer, engine, link } = both
  const transfer = await stopMidway(peer, () => link.write(reversed(8192), { deadlineMs: 30_000 }))
  // Longer than Mooncake lets a request wait for a place in its queue.
  await new Promise((resolve) => setTimeout(resolve, 1500))
  expect(await isPending(transfer.done)).toBe(true)
  peer.signal('SIGCONT')
  await transfer.done
  expect(await peer.ask('others', { value: 6 })).toBe(0)
  await engine.close()
})

test('giving up a connect to a host that is given by name leaves connections to the same port of other hosts alone', async () => {
  const silent = createServer()
  const port = await new Promise<number>((resolve) => {
    silent.listen(0, '127.0.0.1', () => {
      resolve((silent.address() as AddressInfo).port)
    })
  })
  const other = createServer((socket) => socket.pipe(socket))
  await new Promise<void>((resolve) => other.listen(port, '127.0.0.2', resolve))
  const engine = await openEngine()
  const address = Buffer.concat([Buffer.alloc(8), Buffer.from(`localhost:${String(port)}`)])
  const reached = once(silent, 'connection') as Promise<[Socket]>
  const controller = new AbortController()
  const connecting = rejection(
    engine.connect(
      { generation: 'a'.repeat(32), address, regions: [] },
      { timeoutMs: 60_000, signal: controller.signal },
    ),
  )
  const [held] = await reached
  const innocent = connect({ host: '127.0.0.2', port })
  await once(innocent, 'connect')
  controller.abort()
  // Its own connection is cut.
  await once(held.resume(), 'close')
  expect((await connecting).code).toBe('ERR_KVX_ABORTED')
  const echo = once(innocent, 'data')
  innocent.write('still there')
  expect(String((await echo)[0])).toBe('still there')
  innocent.destroy()
  silent.close()
  other.close()
  await engine.close()
})
