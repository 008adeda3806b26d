/** Does a failure of one worker reach the client of the router as what it is, whichever leg tells it first? */
import { afterEach, expect, test } from 'vitest'
import { BootstrapServer, KVManager } from '@kvx/core'
import { silentLog } from '@kvx/contract'
import type { LlamaModel } from '@kvx/llama'
import { allocate } from '@kvx/native'
import { Admission } from '../src/http/drain.ts'
import { listen } from '../src/http/server.ts'
import { startRouter } from '../src/index.ts'
import type { Call } from '../src/worker/call.ts'
import { workerApp } from '../src/worker/app.ts'
import type { Compute } from '../src/worker/compute.ts'
import { receivePrompt } from '../src/worker/decode.ts'
import { EventLog } from '../src/worker/events.ts'
import { CachePools } from '../src/worker/cache-pools.ts'
import { LiveRequests } from '../src/worker/live.ts'
import { workerMetrics } from '../src/worker/metrics.ts'
import { sendPrompt } from '../src/worker/prefill.ts'
import { Strangers } from '../src/worker/strangers.ts'
import { pageBytes, pages, pageTokens, place, shape } from './support/small-cache.ts'

/** What is asked of a model before the first page is leased: these requests do not come further. */
const model = {
  cache: { shape, place },
  id: 'none',
  contextLength: pages * pageTokens,
  checkRequest: () => undefined,
  detokenizer: () => ({ push: () => '', flush: () => '' }),
} as unknown as LlamaModel

const open: (() => Promise<void>)[] = []
afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close()
})

/** Pages that each worker may lease. */
interface Pools {
  readonly prefill: number
  readonly decode: number
}

/** Both workers without their model, and the router. */
async function cluster(pools: Pools) {
  const token = 'a token for tests'
  const host = '127.0.0.1'
  const bootstrap = await BootstrapServer.open({ host, port: 0, token, log: silentLog })
  open.push(() => bootstrap.close())
  const start = async (role: 'prefill' | 'decode') => {
    const memory = allocate(2 * pages * pageBytes)
    const common = {
      ...{ token, shape, place, memory: [memory], backend: 'shm', from: import.meta.url },
      instance: `${role}-a`,
    }
    const manager =
      role === 'prefill'
        ? await KVManager.open({ ...common, role, bootstrap: bootstrap.address })
        : await KVManager.open({ ...common, role })
    open.push(() => manager.close())
    const metrics = workerMetrics()
    const cachePools = new CachePools({
      shape,
      place: { ...place, components: { kv: { pageTokens, pages: pools[role] } } },
    })
    const strangers = new Strangers()
    const side = { model, pools: cachePools, metrics, queueMs: 60_000, strangers }
    const find = () => Promise.resolve(bootstrap.address)
    const roomOf = ({ bootstrap: { room } }: Call) => room ?? 0n
    const compute: Compute =
      manager.role === 'prefill'
        ? { kind: 'prefill', run: (call) => sendPrompt({ ...side, manager }, call, roomOf(call)) }
        : {
            kind: 'answer',
            run: (call, use) => receivePrompt({ ...side, manager }, call, roomOf(call), find, use),
          }
    const app = workerApp({
      ...{ model, modelName: 'none', compute, metrics, log: silentLog, info: {} },
      events: new EventLog(silentLog),
      live: new LiveRequests(),
      check: { run: () => Promise.resolve(undefined) },
      flush: () => undefined,
      modelPath: 'none.gguf',
      admission: new Admission(role),
    })
    const listening = await listen(app, { host, port: 0 })
    open.push(() => listening.close())
    return listening.url
  }
  const [prefill, decode] = await Promise.all([start('prefill'), start('decode')])
  return { prefill, decode }
}

/** The error with which a request ends, over HTTP or as the only event of a stream. */
async function failure(url: string, stream: boolean) {
  const response = await fetch(`${url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ prompt: [1, 2, 3, 4, 5, 6, 7, 8], stream, bootstrap_room: 5 }),
  })
  const { error } = (await response.json()) as { error: object }
  return { status: response.status, ...error }
}

const exhausted = (peer: string) => ({
  status: 503,
  code: 'ERR_KVX_POOL_EXHAUSTED',
  message: expect.stringContaining('2 pages') as string,
  peer,
  retryable: true,
})

test('when prefill has no pages, the leg of decode says so too', async () => {
  const { prefill, decode } = await cluster({ prefill: 1, decode: pages })
  const legs = await Promise.all([failure(prefill, false), failure(decode, false)])
  for (const leg of legs) expect(leg).toMatchObject(exhausted('prefill-a'))
})

test.each([
  ['prefill', false],
  ['prefill', true],
  ['decode', false],
  ['decode', true],
] as const)(
  'when %s has no pages, the client of the router is told so and may try again (stream: %s)',
  async (role, stream) => {
    const { prefill, decode } = await cluster({ prefill: pages, decode: pages, [role]: 1 })
    const router = await startRouter({
      prefill: [{ url: prefill, bootstrapPort: 1 }],
      decode: [decode],
    })
    open.push(() => router.close())
    expect(await failure(router.url, stream)).toMatchObject(exhausted(`${role}-a`))
  },
)
