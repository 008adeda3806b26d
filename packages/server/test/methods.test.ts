/** Is every method, with and without a body, at every path, answered as it should be? */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { asJson, closeAll, errorIn, send, startRouterApp, startWorkerApp } from './support/http.ts'

const urls: Record<string, string> = {}
beforeAll(async () => {
  urls.worker = (await startWorkerApp()).url
  urls.router = (await startRouterApp()).url
})
afterAll(closeAll)

const body = '{"prompt":[1,2],"max_tokens":2}'
const framings = ['length', 'chunked', 'none'] as const
const methods = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'TRACE', 'PROPFIND']

const ask = (path: string, method: string, framing: (typeof framings)[number]) =>
  send(path, {
    ...{ method, headers: asJson },
    ...(framing !== 'none' && { body, framing }),
  })

describe.each(['worker', 'router'])('a %s', (kind) => {
  test.each(framings)('completes what is posted, and only that (body: %s)', async (framing) => {
    const url = `${urls[kind] ?? ''}/v1/completions`
    for (const method of methods) {
      const answer = await ask(url, method, framing)
      if (method === 'POST') {
        expect(answer.status, answer.body).toBe(framing === 'none' ? 400 : 200)
      } else {
        expect(answer.status, method).toBe(method === 'OPTIONS' ? 204 : 405)
        expect(answer.headers.allow, method).toBe('POST, OPTIONS')
      }
    }
  })

  test.each(framings)('answers questions to GET and HEAD only (body: %s)', async (framing) => {
    const paths = ['/health', '/metrics', '/v1/models']
    if (kind === 'worker') {
      paths.push('/readyz', '/livez', '/server_info', '/get_server_info')
      paths.push('/model_info', '/get_model_info', '/get_load')
    }
    for (const path of paths) {
      for (const method of methods) {
        const answer = await ask(`${urls[kind] ?? ''}${path}`, method, framing)
        const asks = method === 'GET' || method === 'HEAD'
        const right = asks ? 200 : method === 'OPTIONS' ? 204 : 405
        expect(answer.status, `${method} ${path}`).toBe(right)
        if (!asks) expect(answer.headers.allow).toBe('GET, HEAD, OPTIONS')
      }
    }
  })

  test.each(framings)('knows no other path by any method (body: %s)', async (framing) => {
    for (const path of ['/', '/v1/completions/', '/v1/chat', '/%00?x=%zz']) {
      for (const method of methods) {
        const answer = await ask(`${urls[kind] ?? ''}${path}`, method, framing)
        expect(answer.status, `${method} ${path}`).toBe(404)
        if (method !== 'HEAD') expect(errorIn(answer).code).toBe('not_found')
      }
    }
  })

  test.each(framings)('refuses a method that HTTP does not know (body: %s)', async (framing) => {
    for (const path of ['/v1/completions', '/health', '/nothing']) {
      expect((await ask(`${urls[kind] ?? ''}${path}`, 'BREW', framing)).status).toBe(400)
    }
  })
})
