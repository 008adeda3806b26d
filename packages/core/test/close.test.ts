import { connect } from 'node:net'
import { afterEach, expect, test } from 'vitest'
import { KvxError, silentLog } from '@kvx/contract'
import { Deferred } from '../src/deferred.ts'
import { promptDigest } from '../src/shape/index.ts'
import type { DecodeState } from '../src/protocol/index.ts'
import { Engine } from '../src/manager/engine.ts'
import { KVManager } from '../src/manager/index.ts'
import { Loopback, plainMemory } from './support/loopback.ts'
import { chunkOf, openLegs, openPair, smallCache, token, type PairOptions } from './support/pair.ts'

const open: { close(): Promise<void> }[] = []
afterEach(async () => {
  for (const one of open.splice(0)) await one.close()
})

async function pair(options: PairOptions) {
  const made = await openPair(options)
  open.push(made)
  return made
}

function openEngine(loopback: Loopback): Promise<Engine> {
  const { backend } = loopback
  return Engine.open({
    backend,
    backendOptions: {},
    memory: [plainMemory(64)],
    staging: undefined,
    log: silentLog,
  })
}

const left = ({ opened, closed }: Loopback) => opened.filter((name) => !closed.includes(name))
/** Holds the next opening until it is let go, or failed. */
function holdOpen(loopback: Loopback): { begun: Promise<void>; end: (error?: Error) => void } {
  const begun = new Deferred<void>()
  const held = new Deferred<void>()
  loopback.faults.beforeOpen = () => {
    begun.resolve()
    return held.promise
  }
  const end = (error?: Error) => {
    if (error) held.reject(error)
    else held.resolve()
  }
  return { begun: begun.promise, end }
}

const unsettled = new KvxError('ERR_KVX_UNSETTLED', 'a peer has not read everything')
const stuck = new KvxError('ERR_KVX_INVALID_STATE', 'a call into the driver did not return')

test('a generation that is being opened when close comes is closed before close resolves', async () => {
  const loopback = new Loopback('engine')
  const engine = await openEngine(loopback)
  const { begun, end } = holdOpen(loopback)
  const next = engine.replace()
  const closed = expect(next).rejects.toMatchObject({ code: 'ERR_KVX_CLOSED' })
  await begun
  const closing = engine.close()
  end()
  await closing
  expect(loopback.opened).toHaveLength(2)
  expect(left(loopback)).toEqual([])
  await closed
})

test('a generation is opened only when the one before is closed, however many replacements are asked for', async () => {
  const loopback = new Loopback('engine')
  const engine = await openEngine(loopback)
  const together: number[] = []
  loopback.faults.beforeOpen = () => {
    together.push(left(loopback).length)
  }
  const [first, second] = await Promise.all([engine.replace(), engine.replace()])
  expect(together).toEqual([1, 1])
  expect(first).not.toBe(second)
  expect(engine.current).toBe(second)
  await engine.close()
  expect(left(loopback)).toEqual([])
})

test('no generation is opened after close', async () => {
  const loopback = new Loopback('engine')
  const engine = await openEngine(loopback)
  const closing = engine.close()
  await expect(engine.replace()).rejects.toMatchObject({ code: 'ERR_KVX_CLOSED' })
  await closing
  await expect(engine.replace()).rejects.toMatchObject({ code: 'ERR_KVX_CLOSED' })
  expect(loopback.opened).toHaveLength(1)
})

test('a generation that could not be opened does not keep close from closing', async () => {
  const loopback = new Loopback('engine')
  const engine = await openEngine(loopback)
  const { begun, end } = holdOpen(loopback)
  const failed = expect(engine.replace()).rejects.toThrow('no device')
  await begun
  const closing = engine.close()
  end(new Error('no device'))
  await closing
  await failed
  expect(left(loopback)).toEqual([loopback.opened[1]])
})

test('a generation that could not be closed is told by close, however many came after it', async () => {
  const loopback = new Loopback('engine')
  const engine = await openEngine(loopback)
  loopback.faults.failClose = stuck
  await expect(engine.replace()).rejects.toMatchObject({ code: 'ERR_KVX_INVALID_STATE' })
  expect(loopback.opened).toHaveLength(1)
  await engine.replace({ evenIfStuck: true })
  delete loopback.faults.failClose
  expect(loopback.opened).toHaveLength(2)
  await expect(engine.close()).rejects.toMatchObject({ code: 'ERR_KVX_INVALID_STATE' })
  expect(left(loopback)).toEqual([])
})

test.each(['prefill', 'decode'] as const)(
  'a %s manager that is closed while it replaces its engine leaves no generation open',
  async (role) => {
    const deadlines = { drain: 100, recycle: 100 }
    const loopback = new Loopback('engine')
    const side = await pair({ engine: loopback, [role]: { deadlines } })
    const { receiver, sender } = await openLegs(side, 1n, prompt, [1, 2])
    loopback.faults.beforeSettled = () => new Promise(() => undefined)
    await sender.write(chunkOf(8, 0, Int32Array.of(0, 1)))
    let release: () => void = () => undefined
    const opening = new Promise<void>((begun) => {
      loopback.faults.beforeOpen = () => {
        begun()
        return new Promise((resolve) => (release = resolve))
      }
    })
    if (role === 'prefill') sender.abort('gone')
    else receiver.abort('gone')
    await opening
    const closing = side[role].close()
    delete loopback.faults.beforeOpen
    release()
    await closing
    const other = loopback.opened[role === 'prefill' ? 1 : 0]
    expect(left(loopback)).toEqual([other])
  },
)

test('bytes that may still land at a peer do not keep a prefill manager from closing', async () => {
  const deadlines = { drain: 100, recycle: 100 }
  const loopback = new Loopback('engine')
  const side = await pair({ engine: loopback, prefill: { deadlines }, decode: { deadlines } })
  const { sender } = await openLegs(side, 1n, prompt, [1, 2])
  loopback.faults.beforeSettled = () => new Promise(() => undefined)
  loopback.faults.failClose = unsettled
  await sender.write(chunkOf(8, 0, Int32Array.of(0, 1)))
  sender.abort('out of patience')
  // The engine is replaced.
  await sender.settled
  await side.prefill.close()
  expect(left(loopback)).not.toContain(loopback.opened[0])
})

test('an engine that cannot be closed is told, and the control port is freed nevertheless', async () => {
  const loopback = new Loopback('exit')
  const side = await pair({ engine: loopback })
  const receiver = side.decode.receive(1n, { ...prompt, from: side.from })
  const sender = side.prefill.send(1n, prompt)
  await receiver.reserve({ pages: Int32Array.of(1, 2) })
  await sender.reserved()
  const [endpoint = ''] = (side.decode as unknown as { state: DecodeState }).state.links.keys()
  loopback.faults.failClose = stuck
  await expect(side.prefill.close()).rejects.toMatchObject({ code: 'ERR_KVX_INVALID_STATE' })
  delete loopback.faults.failClose
  open.pop()
  await side.decode.close()
  await side.bootstrap.close()
  const { port } = new URL(endpoint)
  await expect(
    new Promise((resolve, reject) => {
      connect(Number(port), '127.0.0.1', resolve as () => void).once('error', reject)
    }),
  ).rejects.toMatchObject({ code: 'ECONNREFUSED' })
})

test('a manager that cannot register its memory leaves no engine open', async () => {
  const loopback = new Loopback()
  const backend = {
    ...loopback.backend,
    open: async (...given: Parameters<typeof loopback.backend.open>) => ({
      ...(await loopback.backend.open(...given)),
      register: () => Promise.reject(new KvxError('ERR_KVX_MEMORY', 'not this memory')),
    }),
  }
  const cache = smallCache(4)
  await expect(
    KVManager.open({ role: 'decode', backend, token, ...cache, memory: [plainMemory(4096)] }),
  ).rejects.toMatchObject({ code: 'ERR_KVX_MEMORY' })
  expect(loopback.opened).toHaveLength(1)
  expect(left(loopback)).toEqual([])
})

const prompt = { tokens: 8, digest: promptDigest([1, 2, 3, 4, 5, 6, 7, 8]) }
