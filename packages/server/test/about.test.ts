/** What clients of OpenAI, SGLang and vLLM ask a worker besides answers. */
import { once } from 'node:events'
import { afterEach, expect, test } from 'vitest'
import { KvxError } from '@kvx/contract'
import type { Call } from '../src/worker/call.ts'
import { asJson, closeAll, complete, errorIn, send, startWorkerApp } from './support/http.ts'

afterEach(closeAll)

const read = async (url: string) => {
  const { status, body } = await send(url)
  return { status, ...(JSON.parse(body) as object) }
}

test('the model is told in a list, by its name, and as its file', async () => {
  const { url } = await startWorkerApp()
  const card = { id: 'none', object: 'model', max_model_len: 2 ** 20 }
  expect(await read(`${url}/v1/models`)).toMatchObject({ object: 'list', data: [card] })
  expect(await read(`${url}/v1/models/none`)).toMatchObject(card)
  const other = await send(`${url}/v1/models/some/other`)
  expect(other.status).toBe(404)
  expect(errorIn(other)).toMatchObject({
    code: 'model_not_found',
    message: 'There is no model some/other here, but none.',
  })
  for (const path of ['/model_info', '/get_model_info']) {
    const info = { model_path: 'none.gguf', is_generation: true, model_type: 'none' }
    expect(await read(url + path)).toMatchObject(info)
  }
  for (const path of ['/server_info', '/get_server_info']) {
    expect(await read(url + path)).toMatchObject({ served_model_name: 'none', bootstrap_port: 1 })
  }
})

test('a worker is alive, and ready until it is about to end', async () => {
  const { url, admission } = await startWorkerApp()
  for (const path of ['/health', '/readyz', '/livez'])
    expect((await read(url + path)).status).toBe('ok')
  admission.drain()
  for (const path of ['/health', '/readyz']) expect((await send(url + path)).status).toBe(503)
  expect((await send(`${url}/livez`)).status).toBe(200)
})

test('a worker that cannot compute and move a prompt says why', async () => {
  const well = await startWorkerApp()
  expect(await read(`${well.url}/health_generate`)).toMatchObject({ status: 'ok' })
  const check = () =>
    Promise.reject(
      new KvxError('ERR_KVX_TRANSFER_FAILED', 'The write failed.', { phase: 'transfer' }),
    )
  const { url } = await startWorkerApp({ check })
  const answer = await send(`${url}/health_generate`)
  expect(answer.status).toBe(503)
  expect(errorIn(answer)).toMatchObject({
    code: 'ERR_KVX_TRANSFER_FAILED',
    message: 'The write failed.',
  })
})

/** Answers nothing until it is told to end. */
async function* waiting({ signal }: Call): AsyncGenerator<number, void> {
  if (!signal.aborted) await once(signal, 'abort')
  yield* await Promise.reject<number[]>(signal.reason as Error)
}

test.each([
  ['by its name', { rid: 'mine' }, 1],
  ['with all others', { abort_all: true }, 2],
])('a request is ended %s, and its client is told', async (_, which, count) => {
  const { url } = await startWorkerApp({ answering: waiting })
  const answers = ['mine', 'other'].map((rid) =>
    complete(url, JSON.stringify({ prompt: [1, 2, 3], rid })),
  )
  await expect
    .poll(() => read(`${url}/get_load`))
    .toMatchObject({ 0: { num_reqs: 2, num_tokens: 6 } })
  const abort = (body: object) =>
    send(`${url}/abort_request`, { method: 'POST', headers: asJson, body: JSON.stringify(body) })
  expect(JSON.parse((await abort(which)).body)).toEqual({ aborted: count })
  const mine = await answers[0]
  expect(mine?.status).toBe(499)
  expect(mine && errorIn(mine)).toMatchObject({
    code: 'ERR_KVX_ABORTED',
    message: 'The request was ended by /abort_request.',
  })
  await abort({ abort_all: true })
  await Promise.all(answers)
  expect(await read(`${url}/get_load`)).toMatchObject({ 0: { num_reqs: 0, num_tokens: 0 } })
  expect(errorIn(await abort({})).message).toBe('Give the rid of a request, or abort_all.')
})
