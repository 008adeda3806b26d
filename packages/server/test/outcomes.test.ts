/** Is a request counted as what became of it? */
import { setTimeout as after } from 'node:timers/promises'
import { afterEach, expect, test } from 'vitest'
import { KvxError } from '@kvx/contract'
import type { Call } from '../src/worker/call.ts'
import { asJson, closeAll, complete, startWorkerApp } from './support/http.ts'

afterEach(closeAll)

async function counted(worker: Awaited<ReturnType<typeof startWorkerApp>>) {
  const { registry } = worker.metrics
  const text = `${await registry.getSingleMetricAsString('kvx_requests_total')}\n${await registry.getSingleMetricAsString('kvx_failures_total')}`
  return Object.fromEntries(
    [...text.matchAll(/^kvx_\w+\{\w+="(\w+)"\} (\d+)$/gm)].map(([, what, n]) => [what, Number(n)]),
  )
}

test.each([false, true])(
  'a request that ends because the other side heard first of its cancellation is counted as cancelled (stream: %s)',
  async (stream) => {
    async function* aborted(): AsyncGenerator<number, void> {
      yield 1
      await Promise.resolve()
      throw new KvxError('ERR_KVX_ABORTED', 'The client closed its connection.', {
        peer: 'decode-1',
      })
    }
    const worker = await startWorkerApp({ answering: aborted })
    await complete(worker.url, JSON.stringify({ prompt: [1], stream })).catch(() => undefined)
    expect(await counted(worker)).toEqual({ cancelled: 1 })
  },
)

test('in a storm of cancelled requests no one is counted as failed', async () => {
  const live = new Set<AbortController>()
  async function* slow({ signal }: Call): AsyncGenerator<number, void> {
    yield 1
    await after(3_600_000, undefined, { signal })
  }
  const worker = await startWorkerApp({ answering: slow })
  await Promise.all(
    Array.from({ length: 50 }, async (_, i) => {
      const client = new AbortController()
      live.add(client)
      const response = await fetch(`${worker.url}/v1/completions`, {
        ...{ method: 'POST', headers: asJson, signal: client.signal },
        body: JSON.stringify({ prompt: [i], stream: true }),
      })
      await (response.body as ReadableStream).getReader().read()
      client.abort()
    }),
  )
  await expect.poll(() => counted(worker), { timeout: 30_000 }).toEqual({ cancelled: 50 })
})

test('a request that fails by itself is counted as failed, with its code', async () => {
  // eslint-disable-next-line require-yield -- it fails before its first token
  async function* broken(): AsyncGenerator<number, void> {
    await Promise.resolve()
    throw new KvxError('ERR_KVX_MODEL_STATE', 'It broke.')
  }
  const worker = await startWorkerApp({ answering: broken })
  expect((await complete(worker.url, '{"prompt":[1]}')).status).toBe(500)
  expect(await counted(worker)).toEqual({ failed: 1, ERR_KVX_MODEL_STATE: 1 })
})

test("a body that breaks off is nobody's failure", async () => {
  const worker = await startWorkerApp()
  const client = new AbortController()
  let started!: () => void
  const begun = new Promise<void>((resolve) => (started = resolve))
  const request = fetch(`${worker.url}/v1/completions`, {
    ...{ method: 'POST', headers: asJson, signal: client.signal, duplex: 'half' },
    body: new ReadableStream({
      start(controller) {
        controller.enqueue(new TextEncoder().encode('{"prompt"'))
      },
      pull: () => {
        started()
      },
    }),
  })
  await begun
  client.abort()
  await expect(request).rejects.toThrow()
  expect((await complete(worker.url, '{"prompt":[1]}')).status).toBe(200)
  expect(await counted(worker)).toEqual({ success: 1 })
})
