/** An HTTP server with what every kvx server answers alike: unknown paths, errors, body limit, metrics. */
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { getRequestListener, RequestError, type HttpBindings } from '@hono/node-server'
import { Hono, type Context } from 'hono'
import { bodyLimit } from 'hono/body-limit'
import type { ContentfulStatusCode } from 'hono/utils/http-status'
import type { Registry } from 'prom-client'
import { KvxError } from '@kvx/core/backend'
import { httpError, plainError, type HttpError } from './errors.ts'
import { toJson } from './json.ts'

export type App = Hono<{ Bindings: HttpBindings }>
export type AppContext = Context<{ Bindings: HttpBindings }>

/** A prompt of a hundred thousand token ids, with room to spare. */
const maxBodyBytes = 4 * 2 ** 20

/** @param onError is told of every error that a handler threw, before the client is. */
export function makeApp(registry: Registry, onError: (cause: unknown) => void): App {
  const app: App = new Hono()
  app.use(
    bodyLimit({
      maxSize: maxBodyBytes,
      onError: (c) =>
        refuse(c, 413, 'body_too_large', `The body is larger than ${String(maxBodyBytes)} bytes.`),
    }),
  )
  app.notFound((c) =>
    refuse(c, 404, 'not_found', `There is no ${c.req.method} ${c.req.path} on this server.`),
  )
  app.onError((cause, c) => {
    onError(cause)
    return fail(c, httpError(cause))
  })
  app.get('/metrics', async (c) =>
    c.body(await registry.metrics(), 200, { 'content-type': registry.contentType }),
  )
  return app
}

/** `value` as a JSON answer; bigints are written as integers. */
export function json(c: Context, value: unknown, status = 200): Response {
  return c.body(toJson(value), status as ContentfulStatusCode, {
    'content-type': 'application/json',
  })
}

/** An error as an answer; 429 and 503 say when to ask again. */
export function fail(c: Context, { status, body }: HttpError): Response {
  if (status === 429 || status === 503) c.header('retry-after', '1')
  return json(c, body, status)
}

function refuse(c: Context, status: number, code: string, message: string): Response {
  return fail(c, plainError(status, code, message))
}

/** Aborted when the client closes its connection before our answer is complete. */
export function clientGone(c: AppContext): AbortSignal {
  const controller = new AbortController()
  const { outgoing } = c.env
  outgoing.once('close', () => {
    if (!outgoing.writableFinished) {
      controller.abort(new KvxError('ERR_KVX_ABORTED', 'The client closed its connection.'))
    }
  })
  return controller.signal
}

export interface Listening {
  readonly host: string
  readonly port: number
  /** `http://host:port` */
  readonly url: string
  /** Accepts no more, cuts what is open. Idempotent. */
  close(): Promise<void>
}

/** A server that can end in order. */
export interface Draining {
  /**
   * Refuses new requests with `ERR_KVX_DRAINING` from now on, and resolves when the running ones have
   * ended, with true, or after `deadlineMs`, with false. Then `close`.
   */
  drain(deadlineMs: number): Promise<boolean>
}

/**
 * @param port 0 chooses a free one
 * @throws KvxError `ERR_KVX_ADDRESS_UNAVAILABLE` when the address cannot be listened on
 */
export async function listen(
  app: App,
  { host, port }: { host: string; port: number },
): Promise<Listening> {
  const listener = getRequestListener(app.fetch, {
    overrideGlobalObjects: false,
    errorHandler: (cause) =>
      new Response(null, { status: cause instanceof RequestError ? 400 : 500 }),
  })
  const server = createServer((request, response) => {
    void listener(request, response)
  })
  await bind(server, host, port)
  const address = server.address() as AddressInfo
  let closed: Promise<void> | undefined
  return {
    host,
    port: address.port,
    url: `http://${urlHost(host)}:${String(address.port)}`,
    close: () =>
      (closed ??= new Promise<void>((resolve) => {
        server.close(() => {
          resolve()
        })
        server.closeAllConnections()
      })),
  }
}

function bind(server: Server, host: string, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', (cause: NodeJS.ErrnoException) => {
      reject(new KvxError('ERR_KVX_ADDRESS_UNAVAILABLE', bindMessage(cause, host, port), { cause }))
    })
    server.listen(port, host, resolve)
  })
}

function bindMessage(cause: NodeJS.ErrnoException, host: string, port: number): string {
  const where = `Port ${String(port)} of ${host}`
  switch (cause.code) {
    case 'EADDRINUSE':
      return `${where} is in use by another process: stop it, or choose another --port.`
    case 'EACCES':
      return `${where} may not be used by this user: choose a --port above 1023.`
    case 'EADDRNOTAVAIL':
    case 'ENOTFOUND':
      return `${host} is no address of this machine: choose another --host.`
    default:
      return `${where} cannot be listened on: ${cause.message}.`
  }
}

/** A host as it stands in a URL: IPv6 in brackets. */
export function urlHost(host: string): string {
  return host.includes(':') && !host.startsWith('[') ? `[${host}]` : host
}
