/** Effects that fail: what they concern fails with them, and nothing else. */
import { once } from 'node:events'
import { afterEach, expect, test, vi } from 'vitest'
import { KvxError, silentLog } from '@kvx/contract'
import { ControlClient, decodeFrame, encodeMessage } from '../src/control/index.ts'
import { maxTensors, promptDigest } from '../src/shape/index.ts'
import { type DecodeOptions, KVManager, type KVManagerOptions } from '../src/manager/index.ts'
import { Loop } from '../src/manager/loop.ts'
import { parseMessage, protocolVersion } from '../src/protocol/index.ts'
import { maxAuxBytes, maxPromptPages } from '../src/protocol/settings.ts'
import { Journal } from './control-helpers.ts'
import { chunkOf, openPair, pageTokens, token, type PairOptions } from './support/pair.ts'
import { RawDecode } from './support/raw-decode.ts'

const open: { close(): Promise<void> }[] = []
afterEach(async () => {
  vi.restoreAllMocks()
  for (const one of open.splice(0).reverse()) await one.close()
})

const digest = promptDigest([1, 2, 3, 4])
const tokens = pageTokens

async function pair(options: PairOptions = {}) {
  const side = await openPair(options)
  open.push(side)
  return side
}

type Side = Awaited<ReturnType<typeof pair>>

async function exchange(side: Side, room: bigint) {
  const receiver = side.decode.receive(room, { from: side.from, tokens, digest })
  const sender = side.prefill.send(room, { tokens, digest })
  await receiver.reserve({ pages: Int32Array.of(3) })
  await sender.reserved()
  await sender.write(chunkOf(tokens, 0, Int32Array.of(0)))
  await Promise.all([sender.finish(), receiver.done])
}

/** The next connection that fits cannot be made, as when no file handle is left. */
function failOnce(fits: (endpoint: string) => boolean) {
  const connect = ControlClient.connect.bind(ControlClient)
  let failed = false
  vi.spyOn(ControlClient, 'connect').mockImplementation((options) => {
    if (failed || !fits(options.endpoint)) return connect(options)
    failed = true
    throw new KvxError('ERR_KVX_CONNECT_FAILED', 'Too many open files.')
  })
}

test('a bootstrap that could not be watched for a moment is watched after it', async () => {
  const side = await pair()
  failOnce((endpoint) => endpoint === side.from)
  await exchange(side, 1n)
})

test('a prefill rank that could not be connected fails the request with the reason, and is connected again', async () => {
  const side = await pair()
  failOnce((endpoint) => endpoint !== side.from)
  const receiver = side.decode.receive(1n, { from: side.from, tokens, digest })
  await expect(receiver.done).rejects.toMatchObject({
    code: 'ERR_KVX_CONNECT_FAILED',
    phase: 'hello',
    message: 'Too many open files.',
  })
  await exchange(side, 2n)
})

test('a reserve that does not fit into a message fails its request, and no other', async () => {
  const side = await pair()
  const { send } = ControlClient.prototype
  vi.spyOn(ControlClient.prototype, 'send').mockImplementation(function (
    this: ControlClient,
    message,
  ) {
    const tooMuch = message.k === 'reserve' && message.room === 1n
    return send.call(this, tooMuch ? { ...message, more: new Uint8Array(5_000_000) } : message)
  })
  const receiver = side.decode.receive(1n, { from: side.from, tokens, digest })
  await expect(receiver.reserve({ pages: Int32Array.of(3) })).rejects.toMatchObject({
    code: 'ERR_KVX_OVER_LIMIT',
    phase: 'reserve',
  })
  await receiver.settled
  await exchange(side, 2n)
})

test('a decode rank that replaces its engine is welcomed although the replaced one never answers', async () => {
  const side = await pair()
  const raw = new RawDecode(39)
  open.push(raw)
  await raw.connect(side.from, side.engine)
  const tried: string[] = []
  side.engine.faults.beforeConnect = async (generation, signal) => {
    tried.push(generation)
    if (generation !== raw.generation) return
    const patience = signal ?? new AbortController().signal
    await once(patience, 'abort')
    throw patience.reason
  }
  raw.hello()
  await vi.waitUntil(() => tried.length === 1)
  const renewed = '5'.repeat(32)
  raw.hello({ gen: renewed })
  expect(await raw.hear('welcome')).toMatchObject({ gen: renewed })
  expect(tried).toEqual([raw.generation, renewed])
})

test('an effect that throws does not cost the others of its step, nor the events that wait', () => {
  const done: string[] = []
  const loop = new Loop<string, string>(
    (event) => (event === 'tick' ? [] : [`${event} 1`, `${event} 2`, `${event} 3`]),
    (effect) => {
      if (effect === 'a 1') loop.dispatch('b')
      if (effect === 'a 2') throw new Error('a defect')
      done.push(effect)
    },
    'tick',
  )
  expect(() => {
    loop.dispatch('a')
  }).toThrow(expect.objectContaining({ errors: [new Error('a defect')] }))
  expect(done).toEqual(['a 1', 'a 3', 'b 1', 'b 2', 'b 3'])
  loop.close()
})

test('the longest outcome of a request fits into a message', () => {
  const name = '0'.repeat(32)
  const about = { v: protocolVersion, from: name, to: name, gen: name, ep: Number.MAX_SAFE_INTEGER }
  const components = Array.from({ length: 100 }, (_, i) => String(i).padEnd(200, 'x'))
  const part = { units: Number.MAX_SAFE_INTEGER, bytes: Number.MAX_SAFE_INTEGER }
  const outcome = {
    ...about,
    k: 'complete',
    manifest: {
      parts: Object.fromEntries(components.map((component) => [component, part])),
      chunks: maxPromptPages,
      ms: 0.1,
      digests: { kv: new Uint8Array(16 * maxTensors) },
    },
    aux: { firstToken: 1, logprob: -0.1, cachedTokens: 1, blob: new Uint8Array(maxAuxBytes) },
  }
  const status = {
    ...about,
    k: 'status',
    state: 'complete',
    units: Number.MAX_SAFE_INTEGER,
    outcome,
  }
  const [decoded] = decodeFrame(encodeMessage(status))
  const message = parseMessage(decoded)
  expect(message.k).toBe('status')
})

test.each<[string, Partial<KVManagerOptions>]>([
  ['auxBytes', { limits: { auxBytes: maxAuxBytes + 1 } }],
  ['instance', { instance: 'x'.repeat(201) }],
  ['instance', { instance: '' }],
])('a manager does not open with more than fits into its messages: %s', async (what, change) => {
  const side = await pair()
  const options = {
    role: 'decode',
    ...side.decodeCache,
    memory: [side.decodeMemory],
  } as const
  await expect(
    KVManager.open({
      ...options,
      backend: side.engine.backend,
      token,
      ...change,
    } as DecodeOptions),
  ).rejects.toMatchObject({
    code: 'ERR_KVX_INVALID_OPTION',
    message: expect.stringContaining(what) as string,
  })
})

test('a rank that was replaced at the bootstrap says so, and takes no new requests', async () => {
  const said = new Journal<string>()
  const log = { ...silentLog, error: (_: object, text: string) => said.add(text) } as never
  const instance = 'the-same'
  const side = await pair({ prefill: { instance, log } })
  const next = await KVManager.open({
    role: 'prefill',
    backend: side.engine.backend,
    ...side.prefillCache,
    memory: [side.prefillMemory],
    bootstrap: side.from,
    token,
    instance,
  })
  open.push(next)
  expect(await said.find()).toContain('was replaced at the bootstrap')
  const registered = `Rank tp0/pp0/cp0/dp0 of 'the-same' is registered by a newer process, at tcp://127.0.0.1:`
  const refused = () => side.prefill.send(1n, { tokens, digest })
  const why = {
    code: 'ERR_KVX_DRAINING',
    message: expect.stringContaining(
      `another process has registered in its place. ${registered}`,
    ) as string,
    cause: expect.objectContaining({
      code: 'ERR_KVX_DRAINING',
      peer: side.from,
      message: expect.stringContaining(`(incarnation ${next.incarnation})`) as string,
    }) as KvxError,
  }
  expect(refused).toThrow(expect.objectContaining(why))
  // Its own end does not hide it.
  await side.prefill.drain()
  expect(refused).toThrow(expect.objectContaining(why))
  await exchange({ ...side, prefill: next }, 2n)
})
