import { afterEach, expect, test } from 'vitest'
import { KvxError } from '@kvx/contract'
import { promptDigest } from '../src/shape/index.ts'
import { KVManager } from '../src/manager/index.ts'
import { Loopback, plainMemory } from './support/loopback.ts'
import { chunkOf, memoryFor, openLegs, openPair, smallCache, token } from './support/pair.ts'

const open: { close(): Promise<void> }[] = []
afterEach(async () => {
  for (const one of open.splice(0)) await one.close()
})

async function pair() {
  const made = await openPair()
  open.push(made)
  return made
}

const cache = smallCache(8)
const proper = {
  role: 'decode',
  backend: new Loopback().backend,
  token,
  ...cache,
  memory: [memoryFor(cache)],
} as const

test.each<[string, object, RegExp]>([
  ['an option that does not exist', { verifyKv: true }, /no 'verifyKv'. Did you mean 'verifyKV'/],
  ['another role', { role: 'both' }, /^role must be 'prefill' or 'decode', got "both"/],
  ['no token', { token: undefined }, /token must be a string/],
  ['a token of one character', { token: 'x' }, /at least 16 bytes, got 1/],
  ['no shape', { shape: undefined }, /^shape must be an object, got undefined/],
  ['no place', { place: undefined }, /^place must be an object, got undefined/],
  ['no memory', { memory: [] }, /^memory must be an array of at least one memory/],
  [
    'memory that is none',
    { memory: [{}] },
    /^memory\[0\]\.address must be a bigint .*, got undefined\.$/,
  ],
  ['a host that is everywhere', { host: '0.0.0.0' }, /^host must be .* peers reach/],
  ['a host that is everywhere in IPv6', { host: '::' }, /^host must be .* peers reach/],
  ['a bootstrap without port', { bootstrap: 'tcp://a' }, /^bootstrap must be an address tcp:/],
  ['verifyKV as text', { verifyKV: 'yes' }, /^verifyKV must be true or false, got "yes"/],
  [
    'a rank with a fraction',
    { rank: { tp: 0.5 } },
    /^rank.tp must be an integer from 0 on, got 0.5/,
  ],
  ['a deadline that does not exist', { deadlines: { helo: 1 } }, /no deadline 'helo'/],
  ['a log without methods', { log: {} }, /^log must be a logger/],
  ['an empty instance', { instance: '' }, /^instance must be a name .* got ""/],
])('a manager is not opened with %s', async (_what, wrong, message) => {
  const opening = KVManager.open({ ...proper, ...wrong })
  await expect(opening).rejects.toMatchObject({
    code: 'ERR_KVX_INVALID_OPTION',
    message: expect.stringMatching(message) as string,
  })
})

test.each([undefined, null, 7, 'options', []])('options cannot be %j', async (options) => {
  await expect(KVManager.open(options as never)).rejects.toMatchObject({
    code: 'ERR_KVX_INVALID_OPTION',
  })
})

const prompt = { tokens: 8, digest: promptDigest([1, 2, 3, 4, 5, 6, 7, 8]) }
const whole = { tokens: [0, 8], pages: [0, 1] } as const
const invalid = { code: 'ERR_KVX_INVALID_ARGUMENT' }

test('wrong requests leave no leg behind: the right one takes the room, and drain does not wait', async () => {
  const { prefill, decode, from } = await pair()
  const requests = [
    undefined,
    { ...prompt, tokens: 0 },
    { ...prompt, tokens: 1.5 },
    { ...prompt, tokens: 1_000_000 },
    { ...prompt, digest: new Uint8Array(15) },
    { ...prompt, digest: 'text' },
    { ...prompt, index: -1 },
    { ...prompt, more: 1 },
    { ...prompt, deadlines: 5 },
  ]
  for (const request of requests) {
    expect(() => prefill.send(1n, request as never)).toThrow(expect.objectContaining(invalid))
    const receive = request && { ...request, from }
    expect(() => decode.receive(1n, receive as never)).toThrow(expect.objectContaining(invalid))
  }
  for (const room of [-1n, 1n << 64n, 5, '5'])
    expect(() => prefill.send(room as never, prompt)).toThrow(expect.objectContaining(invalid))
  expect(() => decode.receive(1n, { ...prompt, from: 'nowhere' })).toThrow(
    expect.objectContaining(invalid),
  )
  const late = { ...prompt, deadlines: { hello: -1 } }
  const option = expect.objectContaining({ code: 'ERR_KVX_INVALID_OPTION' }) as Error
  expect(() => prefill.send(1n, late)).toThrow(option)
  expect(() => decode.receive(1n, { ...late, from })).toThrow(option)
  const { sender, receiver } = await openLegs({ prefill, decode, from }, 1n, prompt, [1, 2])
  await sender.write(chunkOf(8, 0, [0, 1]))
  await sender.finish()
  await receiver.done
  // Would wait for five minutes if a leg had stayed behind.
  await Promise.all([prefill.drain(), decode.drain()])
})

test('every wrong call of a leg rejects and changes nothing, and the right one after it works', async () => {
  const { prefill, decode, from } = await pair()
  const receiver = decode.receive(1n, { ...prompt, from })
  const sender = prefill.send(1n, prompt)
  const rejected = async (calls: (() => unknown)[], code: string) => {
    for (const call of calls)
      await expect((async () => call())(), call.toString()).rejects.toMatchObject({ code })
  }
  const state = 'ERR_KVX_INVALID_STATE'
  const bad = 'ERR_KVX_INVALID_ARGUMENT'
  await rejected(
    [
      () => sender.write(chunkOf(8, 0, [0, 1])),
      () => sender.finish(),
      () => {
        receiver.provide({ pages: [1, 2] })
      },
    ],
    state,
  )
  await rejected(
    [
      () => receiver.reserve(undefined as never),
      () => receiver.reserve({ pages: [1] }),
      () => receiver.reserve({ pages: [1, 1] }),
      () => receiver.reserve({ pages: [1, 99] }),
      () => receiver.reserve({ pages: [1, 0.5] }),
      () => receiver.reserve({ pages: Uint32Array.of(1, 2) as never }),
      () => receiver.reserve({ pages: [1, 2], prefixTokens: -1 }),
      () => receiver.reserve({ pages: [], prefixTokens: 9 }),
      () => receiver.reserve({ pages: [1, 2], state: { nothing: [1] } }),
      () => receiver.reserve({ pages: { kv: [1, 2], nothing: [1] } }),
      () => receiver.reserve({ pages: {} }),
      () => receiver.reserve({ pages: { nothing: [1, 2] } }),
      () => receiver.reserve({ page: [1, 2] } as never),
      () => receiver.reserve({ pages: [1, 2] }, { signal: 'now' as never }),
      () => sender.reserved({ signal: {} as never }),
    ],
    bad,
  )
  const accepted = receiver.reserve({})
  await accepted
  await sender.reserved()
  await rejected([() => receiver.reserve({ pages: [1, 2] })], state)
  await rejected(
    [
      () => {
        receiver.provide({ pages: [1] })
      },
      () => {
        receiver.provide({})
      },
    ],
    bad,
  )
  receiver.provide({ pages: [1, 2] })
  await rejected(
    [
      () => {
        receiver.provide({ pages: [3, 4] })
      },
    ],
    state,
  )
  await rejected(
    [
      () => sender.write(undefined as never),
      () => sender.write({ tokens: [0, 8], pages: [0, 99] }),
      () => sender.write({ tokens: [0, 8], pages: [0, -1] }),
      () => sender.write({ tokens: [0, 8], pages: [0, 0.5] }),
      () => sender.write({ tokens: [0, 8], pages: [0] }),
      () => sender.write({ tokens: [0, 8], pages: [0, 1, 2] }),
      () => sender.write({ tokens: [4, 12], pages: [0, 1] }),
      () => sender.write({ tokens: [-4, 4], pages: [0] }),
      () => sender.write({ tokens: [0.5, 4], pages: [0] }),
      () => sender.write({ tokens: [8, 8], pages: [] }),
      () => sender.write({ tokens: [8, 0], pages: [0, 1] }),
      () => sender.write({ tokens: [2, 8], pages: [0, 1] }),
      () => sender.write({ tokens: 8 as never, pages: [0, 1] }),
      () => sender.write({ pages: [0, 1] }),
      () => sender.write({ tokens: [0, 8], pages: { swa: [0, 1] } }),
      () => sender.write({ tokens: [0, 8], pages: { kv: [0, 1], swa: [0, 1] } }),
      () => sender.write({ tokens: [0, 8], pages: { kv: 1 as never } }),
      () => sender.write({ state: { kv: [0] } }),
      () => sender.write({ ...whole, layers: [2, 1] }),
      () => sender.write({ ...whole, layers: [0, 9] }),
      () => sender.write({ ...whole, layers: 1 as never }),
      () => sender.write({ tokens: [0, 8], page: [0, 1] } as never),
      () => sender.finish(),
      () => sender.finish({ aux: { firstToken: 1.5 } }),
      () => sender.finish({ aux: { logprob: NaN } }),
      () => sender.finish({ aux: { first: 1 } as never }),
      () => sender.finish({ state: { kv: [1] } }),
      () => prefill.drain({ deadlineMs: 'soon' as never }),
    ],
    bad,
  )
  await sender.write(chunkOf(8, 0, [0, 1]))
  await rejected([() => sender.write(chunkOf(8, 0, [0, 1]))], bad)
  await sender.finish({ aux: { firstToken: 42, logprob: undefined } as never })
  expect((await receiver.done).aux).toEqual({ firstToken: 42 })
  await rejected(
    [
      () => sender.finish(),
      () => {
        sender.ready()
      },
      () => receiver.reserve({ pages: [1, 2] }),
    ],
    state,
  )
})

test('the calls of a manager that is closed are refused, and close may be called again', async () => {
  const { prefill, decode, from } = await pair()
  await Promise.all([prefill.close(), decode.close()])
  const closed = expect.objectContaining({ code: 'ERR_KVX_CLOSED' }) as Error
  expect(() => prefill.send(1n, prompt)).toThrow(closed)
  expect(() => decode.receive(1n, { ...prompt, from })).toThrow(closed)
  await Promise.all([prefill.close(), decode.close(), prefill.drain(), decode.drain()])
})

test('two managers without a name at one bootstrap are two instances, and both go on', async () => {
  const side = await pair()
  const options = { ...proper, role: 'prefill', bootstrap: side.from } as const
  const other = await KVManager.open({ ...options, memory: [plainMemory(8 * 4096)] })
  open.unshift(other)
  const names = [side.prefill, other].map(
    (manager) =>
      (manager as unknown as { state: { self: { instance: string } } }).state.self.instance,
  )
  expect(new Set(names).size).toBe(2)
})

test('an error as JSON keeps code, message, phase, peer and the first cause', () => {
  const cause = new KvxError('ERR_KVX_CONNECT_FAILED', 'no route', {
    cause: new Error('EHOSTUNREACH'),
  })
  const error = new KvxError('ERR_KVX_PEER_LOST', 'it is gone', {
    phase: 'hello',
    peer: 'a',
    cause,
  })
  expect(JSON.parse(JSON.stringify({ error }))).toEqual({
    error: {
      name: 'KvxError',
      code: 'ERR_KVX_PEER_LOST',
      message: 'it is gone',
      phase: 'hello',
      peer: 'a',
      cause: {
        name: 'KvxError',
        code: 'ERR_KVX_CONNECT_FAILED',
        message: 'no route',
        cause: { name: 'Error', message: 'EHOSTUNREACH' },
      },
    },
  })
})
