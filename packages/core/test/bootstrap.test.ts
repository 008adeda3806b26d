import { randomBytes } from 'node:crypto'
import fc from 'fast-check'
import * as v from 'valibot'
import { expect, test } from 'vitest'
import { silentLog, type KvxError } from '@kvx/contract'
import { BootstrapServer } from '../src/bootstrap/server.ts'
import {
  packInstance,
  replySchema,
  type InstanceRecord,
  type RankRecord,
} from '../src/bootstrap/messages.ts'
import { readInstance } from '../src/bootstrap/read.ts'
import { registerRank, type RegisterOptions } from '../src/bootstrap/register.ts'
import { Published } from '../src/bootstrap/published.ts'
import { RankTable } from '../src/bootstrap/table.ts'
import { Waits } from '../src/bootstrap/waits.ts'
import { watchInstance, type WatchOptions } from '../src/bootstrap/watch.ts'
import { decodeFrame, encodeMessage } from '../src/control/codec.ts'
import { type Connection } from '../src/control/server.ts'
import { maxNameLength } from '../src/shape/index.ts'
import { makeRank, maxRanks, type Context } from '../src/share/rank.ts'
import { cleanup, Journal, openClient, openServer, token } from './control-helpers.ts'
import { lastingPort } from './support/port.ts'

const single = makeRank(4)

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

/** Why nothing can be read at the moment. */
const obstacle = (bootstrap: string) => watch(bootstrap).failures.find()

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

test.each([
  ['64 tensor-parallel ranks in each of 64 stages', 64, 64],
  ['a stage for each rank', 1, maxRanks],
])(
  'an instance of the most ranks with the longest names fits into an answer: %s',
  (_, tpSize, ppSize) => {
    const table = new RankTable('f'.repeat(32), () => undefined)
    const label = 'x'.repeat(63)
    const host = `${label}.${label}.${label}.${label.slice(2)}`
    const { stages } = makeRank(65_536, { ppSize })
    for (let i = 0; i < maxRanks; i++) {
      const at = { tp: i % tpSize, pp: Math.floor(i / tpSize) }
      const refusal = table.put(
        record({
          instance: 'i'.repeat(maxNameLength),
          backend: 'b'.repeat(maxNameLength),
          endpoint: `tcp://${host}:${String(65_535 - i)}`,
          rank: { ...single, ...at, tpSize, ppSize, stages },
        }),
        600_000,
        'register',
      )
      expect(refusal).toBeUndefined()
    }
    const found = table.read(undefined)
    table.clear()
    if (found === undefined) throw new Error('nothing was registered')
    expect(found.complete).toBe(true)
    const frame = encodeMessage({ v: 1, kind: 'instance', found: packInstance(found) })
    const [decoded] = decodeFrame(frame)
    const reply = v.parse(replySchema, decoded)
    if (reply.kind !== 'instance') throw new Error('no instance')
    expect(reply.found?.ranks).toHaveLength(maxRanks)
    for (const i of [0, 1, 64, maxRanks - 1]) expect(reply.found?.ranks[i]).toEqual(found.ranks[i])
  },
)

test('an answer with a rank outside of its topology is refused', () => {
  const found = {
    ...{ instance: 'a', service: 'f'.repeat(32), revision: 1, complete: true },
    ranks: [record({ rank: { ...single, tp: 1 } })],
  }
  const parsed = v.safeParse(replySchema, { v: 1, kind: 'instance', found: packInstance(found) })
  expect(parsed.success).toBe(false)
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
  const gone = await openBootstrap({ port: await lastingPort() })
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
  expect(await obstacle(server.address)).toMatchObject({
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
    "Rank tp0/pp0/cp0/dp0 of 'prefill-a' is registered by a newer process, at tcp://",
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
  await expect(read(server.address)).rejects.toMatchObject({
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
  const first = await openBootstrap({ port: await lastingPort() })
  const rank = record()
  await register(first.address, rank, { leaseMs: 300 })
  const before = await read(first.address)
  await first.close()
  const second = await openBootstrap({ port: first.port })
  const after = await read(second.address)
  expect(after.ranks).toEqual([rank])
  expect(after.service).not.toBe(before.service)
})

const sample = (room: bigint, index = 0) => ({ room, index })
const dpRecord = (dp: number, changes: Partial<RankRecord> = {}) =>
  record({ rank: { ...single, dp, dpSize: 3 }, ...changes })

/** What a watch is told of what it asks. */
function asker(bootstrap: string, instance?: string) {
  const told = new Journal<string>()
  const opened = watchInstance({
    ...{ bootstrap, token, log: silentLog, onRead: () => undefined, onFailed: () => undefined },
    ...(instance !== undefined && { instance }),
    onPublished: ({ room, index }, dp) => {
      told.add(`${String(room)}/${String(index)} dp${String(dp)}`)
    },
  })
  cleanup(() => {
    opened.close()
  })
  return { told, ...opened }
}

test('who asks is told which data-parallel rank was published, before and after, and once', async () => {
  const server = await openBootstrap()
  const [one, two] = [
    await register(server.address, dpRecord(1)),
    await register(server.address, dpRecord(2)),
  ]
  const { told, ask } = asker(server.address)
  ask(sample(5n))
  ask(sample(5n, 1))
  one.publish(sample(5n))
  expect(await told.count(1)).toEqual(['5/0 dp1'])
  two.publish(sample(5n, 1))
  expect(await told.count(2)).toEqual(['5/0 dp1', '5/1 dp2'])
  // The room is used again: the last one counts, and what an older one withdraws is not that. Only what one process
  // says arrives in order.
  two.publish(sample(5n))
  two.publish(sample(6n))
  ask(sample(6n))
  await told.count(3)
  one.withdraw(sample(5n))
  one.publish(sample(7n))
  ask(sample(7n))
  await told.count(4)
  ask(sample(5n))
  expect((await told.count(5)).slice(2)).toEqual(['6/0 dp2', '7/0 dp1', '5/0 dp2'])
})

test('what was withdrawn, or published by a process that has ended, is not told', async () => {
  const server = await openBootstrap()
  const [one, two] = [
    await register(server.address, dpRecord(1)),
    await register(server.address, dpRecord(2)),
  ]
  one.publish(sample(1n))
  one.withdraw(sample(1n))
  one.publish(sample(9n))
  two.publish(sample(2n))
  two.publish(sample(3n))
  const before = asker(server.address)
  before.ask(sample(3n))
  before.ask(sample(9n))
  await before.told.count(2)
  await two.close()
  one.publish(sample(4n))
  const { told, ask } = asker(server.address)
  for (const room of [1n, 2n, 3n, 4n]) ask(sample(room))
  expect(await told.count(1)).toEqual(['4/0 dp1'])
})

test('a room is asked for at the instance that is named, or at the one that changed last', async () => {
  const server = await openBootstrap()
  const [a, b] = [
    await register(server.address, dpRecord(1, { instance: 'a' })),
    await register(server.address, dpRecord(2, { instance: 'b' })),
  ]
  a.publish(sample(5n))
  const [named, latest] = [asker(server.address, 'a'), asker(server.address)]
  named.ask(sample(5n))
  latest.ask(sample(5n))
  expect(await named.told.count(1)).toEqual(['5/0 dp1'])
  b.publish(sample(5n))
  expect(await latest.told.count(1)).toEqual(['5/0 dp2'])
})

test('a service that restarts learns again what was published and what is asked', async () => {
  const first = await openBootstrap({ port: await lastingPort() })
  const registration = await register(first.address, dpRecord(1), { leaseMs: 300 })
  registration.publish(sample(2n))
  registration.withdraw(sample(2n))
  registration.publish(sample(1n))
  const { told, ask } = asker(first.address)
  ask(sample(1n))
  expect(await told.count(1)).toEqual(['1/0 dp1'])
  ask(sample(2n))
  ask(sample(3n))
  await first.close()
  const second = await openBootstrap({ port: first.port })
  const after = asker(second.address)
  after.ask(sample(1n))
  expect(await after.told.count(1)).toEqual(['1/0 dp1'])
  registration.publish(sample(3n))
  expect(await told.count(2)).toEqual(['1/0 dp1', '3/0 dp1'])
})

test('more publications than the service holds are refused, and questions beyond are not kept', () => {
  const held = new Published(() => 'a')
  const [owner, other] = [{}, {}]
  const many = Array.from({ length: 65_536 }, (_, room) => sample(BigInt(room)))
  expect(held.publish('a', 1, many, owner)).toBe(true)
  expect(held.publish('a', 1, [sample(70_000n)], other)).toBe(false)
  expect(held.publish('a', 2, many.slice(0, 1), other)).toBe(true)
  held.drop(owner)
  expect(held.publish('a', 1, [sample(70_000n)], other)).toBe(true)
  const told: string[] = []
  const answer = ({ room }: { room: bigint }, dp: number) =>
    told.push(`${String(room)} dp${String(dp)}`)
  const asked = Array.from({ length: 65_537 }, (_, room) => sample(BigInt(100_000 + room)))
  for (const one of asked) held.ask(owner, { instance: undefined, sample: one, answer })
  held.publish('a', 0, asked.slice(-2), other)
  expect(told).toEqual(['165535 dp0'])
  held.drop(owner)
  held.publish('a', 0, asked.slice(0, 2), other)
  expect(told).toHaveLength(1)
})

test('a topology that contradicts the live ranks is refused until they are gone', async () => {
  const server = await openBootstrap()
  await register(server.address, record({ rank: { ...single, tpSize: 2 } }), { leaseMs: 60_000 })
  const other = record({ rank: { ...single, tp: 1, tpSize: 4 } })
  await expect(register(server.address, other)).rejects.toMatchObject({
    code: 'ERR_KVX_PROTOCOL',
    message: expect.stringContaining(
      'has the topology tp4/pp1/cp1/dp1 with layers 0-4, rank tp0/pp0/cp0/dp0 has tp2/pp1/cp1/dp1 with layers 0-4',
    ) as string,
  })
})

test('ranks that hold other tokens of a prompt are not of one instance', async () => {
  const server = await openBootstrap()
  const rank = (cp: number, context: Context) => makeRank(4, { cp, cpSize: 2, context })
  await register(server.address, record({ rank: rank(0, 'contiguous') }), { leaseMs: 60_000 })
  const other = record({ rank: rank(1, { interleave: 4 }) })
  await expect(register(server.address, other, { timeoutMs: 300 })).rejects.toMatchObject({
    code: 'ERR_KVX_PROTOCOL',
    message: expect.stringMatching(
      /context { interleave: 4 }, rank tp0\/pp0\/cp0\/dp0 has .*, context 'contiguous'\.$/,
    ) as string,
  })
})

test('ranks that split the layers differently are not of one instance', async () => {
  const server = await openBootstrap()
  const stage = (pp: number, stages: number[]) =>
    record({ rank: makeRank(4, { pp, ppSize: 2, stages }) })
  await register(server.address, stage(0, [0, 2, 4]), { leaseMs: 60_000 })
  await expect(register(server.address, stage(1, [0, 3, 4]))).rejects.toMatchObject({
    code: 'ERR_KVX_PROTOCOL',
    message: expect.stringContaining('pp2/cp1/dp1 with layers 0-3-4') as string,
  })
  const second = stage(1, [0, 2, 4])
  await register(server.address, second)
  expect((await read(server.address)).ranks).toHaveLength(2)
})

test('without a name the instance that changed last is read', async () => {
  const server = await openBootstrap()
  await register(server.address, record({ instance: 'one' }))
  await register(server.address, record({ instance: 'two' }))
  expect((await read(server.address)).instance).toBe('two')
  expect((await read(server.address, { instance: 'one' })).instance).toBe('one')
})

test('a service that is not running is told with its address and the usual reasons', async () => {
  const server = await openBootstrap({ port: await lastingPort() })
  await server.close()
  const expected = {
    code: 'ERR_KVX_BOOTSTRAP_UNREACHABLE',
    message:
      `The bootstrap service at ${server.address} is not reachable: Nothing answers at ${server.address}. ` +
      'Either it is not running, or it has another address, or this process has another token.',
  }
  await Promise.all([
    expect(read(server.address)).rejects.toMatchObject(expected),
    expect(register(server.address, record())).rejects.toMatchObject(expected),
  ])
})

test('another token is told at once, long before the deadline, and changes nothing', async () => {
  const server = await openBootstrap()
  const rank = record()
  await register(server.address, rank)
  const other = {
    bootstrap: server.address,
    token: 'another token for tests',
    timeoutMs: 3_600_000,
  }
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
  ['a rank without a layer', { rank: { ...single, stages: [0, 0] } }],
  ['a rank without its stage', { rank: { ...single, pp: 1, ppSize: 2 } }],
  ['a rank of more layers than there can be', { rank: { ...single, stages: [0, 65_537] } }],
  ['an endpoint without a port', { endpoint: 'tcp://127.0.0.1' }],
  ['an incarnation that is none', { incarnation: 'me' }],
])('%s cannot be registered, whoever sends it', async (_, changes) => {
  const server = await openBootstrap()
  const { client, up, messages } = openClient(server.address)
  await up()
  client.send({ v: 1, kind: 'register', record: record(changes), leaseMs: 1_000 })
  expect(await messages.find()).toMatchObject({
    ...{ v: 1, kind: 'refused', reason: 'malformed' },
    text: expect.stringContaining('does not fit') as string,
  })
  expect(await obstacle(server.address)).toMatchObject({ code: 'ERR_KVX_BOOTSTRAP_INCOMPLETE' })
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
  await expect(read(server.endpoint, { timeoutMs: 400 })).rejects.toMatchObject({
    code: 'ERR_KVX_BOOTSTRAP_UNREACHABLE',
  })
})

function watch(bootstrap: string, options: Partial<WatchOptions> = {}) {
  const reads = new Journal<InstanceRecord>()
  const failures = new Journal<KvxError>()
  const watching = watchInstance({
    bootstrap,
    token,
    onRead: reads.add,
    onFailed: failures.add,
    log: silentLog,
    ...options,
  })
  cleanup(() => {
    watching.close()
  })
  return { reads, failures, watching }
}

/** No answer may be the work of this deadline: only a change can end such a wait within a test. */
const untilNews = { waitMs: 60_000 }

test('a watch tells the present state and then every change as it happens', async () => {
  const server = await openBootstrap()
  const old = record()
  await register(server.address, old)
  const { reads, failures } = watch(server.address, untilNews)
  expect((await reads.count(1))[0]?.ranks).toEqual([old])
  const fresh = record({ endpoint: 'tcp://127.0.0.1:4001' })
  await register(server.address, fresh)
  const [before, after] = await reads.count(2)
  expect(after?.ranks).toEqual([fresh])
  expect(after?.revision).toBeGreaterThan(before?.revision ?? 0)
  expect(failures.entries).toEqual([])
})

test('a watch says that ranks are missing, and tells the instance when the last one comes', async () => {
  const server = await openBootstrap()
  const { reads, failures } = watch(server.address, untilNews)
  const at = (tp: number) => record({ rank: { ...single, tp, tpSize: 2 } })
  const ranks = [at(0), at(1)] as const
  expect((await failures.count(1))[0]).toMatchObject({
    code: 'ERR_KVX_BOOTSTRAP_INCOMPLETE',
    message: expect.stringContaining('none of its ranks has registered') as string,
  })
  await register(server.address, ranks[0])
  expect((await failures.count(2))[1]?.message).toContain('1 of its 2 ranks have registered')
  const last = await register(server.address, ranks[1])
  expect((await reads.count(1))[0]?.ranks).toEqual(ranks)
  await last.close()
  expect((await failures.count(3))[2]?.message).toContain('1 of its 2 ranks have registered')
})

test('a watch of a named instance is not told of others', async () => {
  const server = await openBootstrap()
  const mine = record({ instance: 'mine' })
  await register(server.address, mine)
  const { reads } = watch(server.address, { ...untilNews, instance: 'mine' })
  await reads.count(1)
  const latest = watch(server.address, untilNews)
  await register(server.address, record({ instance: 'other' }))
  await latest.reads.find(({ instance }) => instance === 'other')
  await register(server.address, { ...mine, endpoint: 'tcp://127.0.0.1:4001' })
  expect((await reads.count(2)).map(({ instance }) => instance)).toEqual(['mine', 'mine'])
})

test('a watch outlives its service and tells what the next one knows', async () => {
  const first = await openBootstrap({ port: await lastingPort() })
  await register(first.address, record())
  const { reads, failures } = watch(first.address, untilNews)
  const [before] = await reads.count(1)
  await first.close()
  expect(await failures.find()).toMatchObject({
    code: 'ERR_KVX_BOOTSTRAP_UNREACHABLE',
    peer: first.address,
    phase: 'bootstrap',
  })
  await openBootstrap({ port: first.port })
  const fresh = record()
  await register(first.address, fresh)
  const found = await reads.find(({ ranks }) => ranks[0]?.incarnation === fresh.incarnation)
  expect(found.service).not.toBe(before?.service)
})

test('a watch that was told of a failure is told of the same state again', async () => {
  const rank = record()
  const found = {
    instance: 'a',
    service: '0'.repeat(32),
    revision: 7,
    complete: true,
    ranks: [rank],
  }
  const waits = new Journal<unknown>()
  const service = {
    port: await lastingPort(),
    onMessage: (connection: Connection, message: Record<string, unknown>) => {
      if (message.waitMs === undefined)
        connection.send({ v: 1, kind: 'instance', found: packInstance(found) })
      else waits.add(message.waitMs)
    },
  }
  const { server } = await openServer(service)
  const { reads, failures } = watch(server.endpoint, untilNews)
  await waits.count(1)
  await server.close()
  await failures.find()
  await openServer(service)
  expect((await reads.count(2)).map(({ revision }) => revision)).toEqual([7, 7])
})

test('a service that is not there is told at every attempt, until it is there', async () => {
  const gone = await openBootstrap({ port: await lastingPort() })
  await gone.close()
  const { reads, failures } = watch(gone.address)
  for (const failure of await failures.count(3)) {
    expect(failure).toMatchObject({
      code: 'ERR_KVX_BOOTSTRAP_UNREACHABLE',
      cause: { code: 'ERR_KVX_PEER_LOST', message: `Nothing answers at ${gone.address}.` },
    })
  }
  await openBootstrap({ port: gone.port })
  const rank = record()
  await register(gone.address, rank)
  expect((await reads.find()).ranks).toEqual([rank])
})

test('a watch with another token is told so and reads nothing', async () => {
  const server = await openBootstrap()
  await register(server.address, record())
  const { reads, failures } = watch(server.address, { token: 'another token for tests' })
  expect(await failures.find()).toMatchObject({
    code: 'ERR_KVX_BOOTSTRAP_UNREACHABLE',
    cause: { code: 'ERR_KVX_UNAUTHORIZED' },
  })
  expect(reads.entries).toEqual([])
})

test('a service that never answers is noticed and asked again', async () => {
  const { server, messages } = await openServer()
  const { reads, failures } = watch(server.endpoint, { silentMs: 50 })
  expect(await failures.find()).toMatchObject({
    code: 'ERR_KVX_BOOTSTRAP_UNREACHABLE',
    message: expect.stringContaining('has not answered for 0.05 s') as string,
  })
  const asked = await messages.count(3)
  expect(new Set(asked.map(({ connection }) => connection.id)).size).toBe(1)
  expect(reads.entries).toEqual([])
})

test('a service that does not let questions wait is asked with growing pauses', async () => {
  const asked = new Journal<number>()
  const { server } = await openServer({
    onMessage: (connection, message) => {
      if (message.waitMs !== undefined) asked.add(performance.now())
      connection.send({ v: 1, kind: 'instance' })
    },
  })
  watch(server.endpoint)
  const times = await asked.count(4)
  const gaps = times.slice(1).map((time, i) => time - (times[i] ?? 0))
  // Each pause is at least half of 100, 200, 400 ms; a timer may be a millisecond early.
  expect(gaps.every((gap, i) => gap >= 50 * 2 ** i - 2)).toBe(true)
})

test('a refused watch says why and asks again', async () => {
  const { server, messages } = await openServer({
    onMessage: (connection, message) => {
      messages.add({ connection, message })
      connection.send({ v: 1, kind: 'refused', reason: 'full', text: 'too much to tell' })
    },
  })
  const { failures } = watch(server.endpoint)
  expect(await failures.find()).toMatchObject({
    code: 'ERR_KVX_PROTOCOL',
    message: expect.stringContaining('too much to tell') as string,
  })
  await messages.count(2)
})

test('a closed watch is told nothing more', async () => {
  const server = await openBootstrap()
  const closed = watch(server.address, untilNews)
  await closed.failures.find()
  closed.watching.close()
  closed.watching.close()
  const open = watch(server.address, untilNews)
  await open.failures.find()
  await register(server.address, record())
  await open.reads.find()
  expect(closed.reads.entries).toEqual([])
  expect(closed.failures.entries).toHaveLength(1)
})

test('a question waits no longer than it was allowed to', async () => {
  const server = await openBootstrap()
  const { client, up, messages } = openClient(server.address)
  await up()
  client.send({ v: 1, kind: 'read', waitMs: 20 })
  expect(await messages.find()).toEqual({ v: 1, kind: 'instance' })
})

test('of each connection only the last question waits', async () => {
  const server = await openBootstrap()
  const { client, up, messages } = openClient(server.address)
  await up()
  for (let i = 0; i < 3; i++) client.send({ v: 1, kind: 'read', waitMs: 60_000 })
  client.send({ v: 1, kind: 'register', record: record(), leaseMs: 60_000 })
  const kinds = (await messages.count(2)).map(({ kind }) => kind)
  expect(kinds).toEqual(['instance', 'registered'])
  client.send({ v: 1, kind: 'deregister', record: record() })
  expect((await messages.count(3))[2]).toMatchObject({ kind: 'deregistered' })
})

/** What can happen to a table and to those who wait for it. */
const happening = fc.oneof(
  fc.record({
    do: fc.constant('put' as const),
    instance: fc.constantFrom('a', 'b'),
    tp: fc.nat(1),
    incarnation: fc.constantFrom('0'.repeat(32), '1'.repeat(32)),
  }),
  fc.record({
    do: fc.constant('remove' as const),
    instance: fc.constantFrom('a', 'b'),
    tp: fc.nat(1),
    incarnation: fc.constantFrom('0'.repeat(32), '1'.repeat(32)),
  }),
  fc.record({
    do: fc.constant('ask' as const),
    asker: fc.nat(3),
    instance: fc.constantFrom('a', 'b', undefined),
  }),
  fc.record({ do: fc.constant('leave' as const), asker: fc.nat(3) }),
)

test('whoever waits is answered when, and only when, there is something that he does not know', () => {
  fc.assert(
    fc.property(fc.array(happening, { maxLength: 60 }), (happenings) => {
      const service = 'f'.repeat(32)
      const table: RankTable = new RankTable(service, () => {
        waits.look()
      })
      const waits = new Waits(table)
      const stateOf = (found: InstanceRecord | undefined) =>
        found && { service: found.service, revision: found.revision }
      const askers = Array.from({ length: 4 }, () => ({
        known: undefined as ReturnType<typeof stateOf>,
        /** Whose instance is asked for, while an answer is awaited. */
        waiting: undefined as { instance: string | undefined } | undefined,
      }))
      for (const one of happenings) {
        if (one.do === 'put' || one.do === 'remove') {
          const { instance, tp, incarnation } = one
          const rank = record({ instance, incarnation, rank: { ...single, tp, tpSize: 2 } })
          if (one.do === 'put') table.put(rank, 600_000, 'register')
          else table.remove(rank)
        } else {
          const asker = askers[one.asker]
          if (asker === undefined) continue
          if (one.do === 'leave') {
            waits.drop(asker)
            asker.waiting = undefined
            continue
          }
          const { instance } = one
          const { known } = asker
          asker.waiting = { instance }
          waits.ask(
            {
              ...{ v: 1, kind: 'read', waitMs: 60_000 },
              ...(instance === undefined ? {} : { instance }),
              ...(known === undefined ? {} : { since: known }),
            },
            {
              connection: asker,
              answer: (found) => {
                expect(asker.waiting).toEqual({ instance })
                expect(stateOf(found)).not.toEqual(known)
                asker.known = stateOf(found)
                asker.waiting = undefined
              },
            },
          )
        }
        for (const { known, waiting } of askers) {
          if (waiting) expect(stateOf(table.read(waiting.instance))).toEqual(known)
        }
      }
      waits.clear()
      table.clear()
    }),
  )
})
