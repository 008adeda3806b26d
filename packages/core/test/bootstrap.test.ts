import { randomBytes } from 'node:crypto'
import { expect, test } from 'vitest'
import { silentLog, type KvxError } from '@kvx/core/backend'
import { BootstrapServer } from '../src/bootstrap/server.ts'
import { type RankCoordinates, type RankRecord } from '../src/bootstrap/messages.ts'
import { readInstance } from '../src/bootstrap/read.ts'
import { registerRank, type RegisterOptions } from '../src/bootstrap/register.ts'
import { cleanup, Journal, openClient, openServer, token } from './control-helpers.ts'

const single: RankCoordinates = {
  tp: 0,
  tpSize: 1,
  pp: 0,
  ppSize: 1,
  cp: 0,
  cpSize: 1,
  dp: 0,
  dpSize: 1,
}

function record(changes: Partial<RankRecord> = {}): RankRecord {
  return {
    instance: 'prefill-a',
    incarnation: randomBytes(16).toString('hex'),
    endpoint: 'tcp://127.0.0.1:4000',
    rank: single,
    backend: 'shm',
    ...changes,
  }
}

async function openBootstrap(options: { host?: string; port?: number } = {}) {
  const server = await BootstrapServer.open({
    host: '127.0.0.1',
    port: 0,
    token,
    log: silentLog,
    ...options,
  })
  cleanup(() => server.close())
  return server
}

async function register(
  bootstrap: string,
  rank: RankRecord,
  options: Partial<RegisterOptions> = {},
) {
  const registration = await registerRank({
    bootstrap,
    token,
    record: rank,
    timeoutMs: 5_000,
    ...options,
  })
  cleanup(() => registration.close())
  return registration
}

const read = (bootstrap: string, options: { instance?: string; timeoutMs?: number } = {}) =>
  readInstance({ bootstrap, token, timeoutMs: 5_000, ...options })

/** An instance that is known to be incomplete need not be waited for long. */
const readSoon = (bootstrap: string) => read(bootstrap, { timeoutMs: 400 })

test('what a rank registers is what a reader gets', async () => {
  const server = await openBootstrap()
  expect(server.address).toBe(`tcp://127.0.0.1:${server.port}`)
  const rank = record()
  await register(server.address, rank)
  expect(await read(server.address)).toMatchObject({
    instance: 'prefill-a',
    complete: true,
    ranks: [rank],
  })
})

test('IPv6 works', async () => {
  const server = await openBootstrap({ host: '::1' })
  const rank = record({ endpoint: 'tcp://[::1]:4000' })
  await register(server.address, rank)
  expect((await read(server.address)).ranks).toEqual([rank])
})

test('a port in use is told in one sentence', async () => {
  const { port } = await openBootstrap()
  await expect(openBootstrap({ port })).rejects.toMatchObject({
    code: 'ERR_KVX_ADDRESS_UNAVAILABLE',
    message: expect.stringContaining(`tcp://127.0.0.1:${port}: the port is in use`) as string,
  })
})

test('a reader that comes first waits for the ranks', async () => {
  const server = await openBootstrap()
  const found = read(server.address)
  const rank = record()
  await register(server.address, rank)
  expect((await found).ranks).toEqual([rank])
})

test('a reader that comes before the service waits for it', async () => {
  const gone = await openBootstrap()
  await gone.close()
  const found = read(gone.address)
  await openBootstrap({ port: gone.port })
  const rank = record()
  await register(gone.address, rank)
  expect((await found).ranks).toEqual([rank])
})

test('an instance is complete when every rank of its topology is there, each counted once', async () => {
  const server = await openBootstrap()
  const at = (tp: number) =>
    record({
      rank: { ...single, tp, tpSize: 2 },
      endpoint: `tcp://127.0.0.1:${4_000 + tp}`,
    })
  const first = at(0)
  await register(server.address, first)
  await register(server.address, first)
  await expect(readSoon(server.address)).rejects.toMatchObject({
    code: 'ERR_KVX_BOOTSTRAP_INCOMPLETE',
    message: `The prefill instance 'prefill-a' is not complete: 1 of its 2 ranks have registered at ${server.address}.`,
  })
  const second = at(1)
  await register(server.address, second)
  expect((await read(server.address)).ranks).toEqual([first, second])
})

test('a rank that restarts replaces itself, and its old process learns that it is lost', async () => {
  const server = await openBootstrap()
  const lost = new Journal<KvxError>()
  const old = record()
  await register(server.address, old, { leaseMs: 60, onLost: lost.add })
  const before = await read(server.address)
  const fresh = record({ endpoint: 'tcp://127.0.0.1:4001' })
  await register(server.address, fresh)
  expect((await lost.find()).message).toContain(
    "Rank tp0/pp0/cp0/dp0 of 'prefill-a' is registered by a newer process.",
  )
  const after = await read(server.address)
  expect(after.ranks).toEqual([fresh])
  expect(after.service).toBe(before.service)
  expect(after.revision).toBeGreaterThan(before.revision)
})

test('renewals change no revision', async () => {
  const server = await openBootstrap()
  const rank = record()
  await register(server.address, rank)
  const before = await read(server.address)
  await register(server.address, rank)
  expect((await read(server.address)).revision).toBe(before.revision)
})

test('a closed registration is gone at once, and closing again does nothing', async () => {
  const server = await openBootstrap()
  const registration = await register(server.address, record())
  await registration.close()
  await registration.close()
  await expect(readSoon(server.address)).rejects.toMatchObject({
    code: 'ERR_KVX_BOOTSTRAP_INCOMPLETE',
    message: `The prefill instance is not complete: none of its ranks has registered at ${server.address}.`,
  })
})

test('an old process that closes does not withdraw the registration of its successor', async () => {
  const server = await openBootstrap()
  const old = await register(server.address, record())
  const fresh = record()
  await register(server.address, fresh)
  await old.close()
  expect((await read(server.address)).ranks).toEqual([fresh])
})

test('a rank that does not renew is forgotten', async () => {
  const server = await openBootstrap()
  const { client, up, messages } = openClient(server.address)
  await up()
  client.send({ v: 1, kind: 'register', record: record(), leaseMs: 50 })
  expect(await messages.find()).toEqual({ v: 1, kind: 'registered' })
  let last: { found?: unknown } = { found: true }
  for (let n = 2; last.found !== undefined; n += 1) {
    client.send({ v: 1, kind: 'read' })
    last = (await messages.count(n))[n - 1] as typeof last
  }
})

test('a rank that renews outlives its lease many times', async () => {
  const server = await openBootstrap()
  const rank = record()
  await register(server.address, rank, { leaseMs: 300 })
  // A lease of another rank that is not renewed measures the time.
  const { client, up, messages } = openClient(server.address)
  await up()
  client.send({ v: 1, kind: 'register', record: record({ instance: 'clock' }), leaseMs: 1_000 })
  await messages.find()
  let found: unknown = true
  for (let n = 2; found !== undefined; n += 1) {
    client.send({ v: 1, kind: 'read', instance: 'clock' })
    found = (await messages.count(n))[n - 1]?.found
  }
  expect((await read(server.address, { instance: 'prefill-a' })).ranks).toEqual([rank])
})

test('a bootstrap service that restarts fills again', async () => {
  const first = await openBootstrap()
  const rank = record()
  await register(first.address, rank, { leaseMs: 300 })
  const before = await read(first.address)
  await first.close()
  const second = await openBootstrap({ port: first.port })
  const after = await read(second.address)
  expect(after.ranks).toEqual([rank])
  expect(after.service).not.toBe(before.service)
})

test('a topology that contradicts the live ranks is refused until they are gone', async () => {
  const server = await openBootstrap()
  await register(server.address, record({ rank: { ...single, tpSize: 2 } }), { leaseMs: 60_000 })
  const other = record({ rank: { ...single, tp: 1, tpSize: 4 } })
  await expect(register(server.address, other, { timeoutMs: 300 })).rejects.toMatchObject({
    code: 'ERR_KVX_PROTOCOL',
    message: expect.stringContaining(
      'has the topology tp4/pp1/cp1/dp1, rank tp0/pp0/cp0/dp0 has tp2/pp1/cp1/dp1',
    ) as string,
  })
})

test('without a name the instance that changed last is read', async () => {
  const server = await openBootstrap()
  await register(server.address, record({ instance: 'one' }))
  await register(server.address, record({ instance: 'two' }))
  expect((await read(server.address)).instance).toBe('two')
  expect((await read(server.address, { instance: 'one' })).instance).toBe('one')
})

test('a service that is not running is told with its address and the usual reasons', async () => {
  const server = await openBootstrap()
  await server.close()
  const expected = {
    code: 'ERR_KVX_BOOTSTRAP_UNREACHABLE',
    message:
      `The bootstrap service at ${server.address} is not reachable: Nothing answers at ${server.address}. ` +
      'Either it is not running, or it has another address, or this process has another token.',
  }
  await expect(readSoon(server.address)).rejects.toMatchObject(expected)
  await expect(register(server.address, record(), { timeoutMs: 300 })).rejects.toMatchObject(
    expected,
  )
})

test('another token is told at once, long before the deadline, and changes nothing', async () => {
  const server = await openBootstrap()
  const rank = record()
  await register(server.address, rank)
  const other = { bootstrap: server.address, token: 'another token', timeoutMs: 3_600_000 }
  const expected = {
    code: 'ERR_KVX_BOOTSTRAP_UNREACHABLE',
    cause: { code: 'ERR_KVX_UNAUTHORIZED' },
  }
  await expect(readInstance(other)).rejects.toMatchObject(expected)
  await expect(registerRank({ ...other, record: record() })).rejects.toMatchObject(expected)
  expect((await read(server.address)).ranks).toEqual([rank])
})

test('an aborted wait ends', async () => {
  const server = await openBootstrap()
  const controller = new AbortController()
  const found = readInstance({
    bootstrap: server.address,
    token,
    timeoutMs: 3_600_000,
    signal: controller.signal,
  })
  controller.abort()
  await expect(found).rejects.toMatchObject({ code: 'ERR_KVX_ABORTED' })
  const early = readInstance({
    bootstrap: server.address,
    token,
    timeoutMs: 3_600_000,
    signal: AbortSignal.abort(),
  })
  await expect(early).rejects.toMatchObject({ code: 'ERR_KVX_ABORTED' })
})

test('a malformed address is refused', async () => {
  await expect(read('127.0.0.1:8998')).rejects.toMatchObject({ code: 'ERR_KVX_INVALID_OPTION' })
  await expect(register('127.0.0.1:8998', record())).rejects.toMatchObject({
    code: 'ERR_KVX_INVALID_OPTION',
  })
})

test.each([
  ['a rank outside its topology', { rank: { ...single, tp: 1 } }],
  ['an endpoint without a port', { endpoint: 'tcp://127.0.0.1' }],
  ['an incarnation that is none', { incarnation: 'me' }],
])('%s cannot be registered', async (_, changes) => {
  const server = await openBootstrap()
  await expect(register(server.address, record(changes))).rejects.toMatchObject({
    code: 'ERR_KVX_PROTOCOL',
    message: expect.stringContaining('does not fit') as string,
  })
  await expect(readSoon(server.address)).rejects.toMatchObject({
    code: 'ERR_KVX_BOOTSTRAP_INCOMPLETE',
  })
})

test('an unknown request is answered, and the service goes on', async () => {
  const server = await openBootstrap()
  const { client, up, messages } = openClient(server.address)
  await up()
  client.send({ v: 1, kind: 'reboot' })
  expect(await messages.find()).toMatchObject({ v: 1, kind: 'refused', reason: 'malformed' })
  const rank = record()
  await register(server.address, rank)
  expect((await read(server.address)).ranks).toEqual([rank])
})

test('a service that answers nonsense is not believed', async () => {
  const { server } = await openServer({
    onMessage: (connection) => {
      connection.send({ v: 1, kind: 'instance', found: { ranks: 7 } })
    },
  })
  await expect(readSoon(server.endpoint)).rejects.toMatchObject({
    code: 'ERR_KVX_BOOTSTRAP_UNREACHABLE',
  })
})
