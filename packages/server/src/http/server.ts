/** An HTTP server with what every kvx server answers alike: who may ask, unknown paths, errors, bodies, metrics. */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { getRequestListener, RequestError, type HttpBindings } from '@hono/node-server'
import { Hono, type Context } from 'hono'
import type { ContentfulStatusCode } from 'hono/utils/http-status'
import type { Registry } from 'prom-client'
import { KvxError, silentLog, systemReason, type Log } from '@kvx/contract'
import { bareHost, urlHost } from './address.ts'
import { Bodies, bodyLimits, type BodyLimits } from './body.ts'
import { connectionLimits, Connections, type ConnectionLimits } from './connections.ts'
import { httpError, plainError, type HttpError } from './errors.ts'
import { makeAdmission, type AdmissionOptions, type Verdict } from './admission.ts'

interface Env {
  readonly Bindings: HttpBindings
  readonly Variables: {
    /** The JSON text that the request carries. Throws as `Bodies.text`. */
    readonly text: () => Promise<string>
  }
}
export type App = Hono<Env>
export type AppContext = Context<Env>

/** What can be set about the HTTP side of a worker or router. */
export interface HttpOptions extends AdmissionOptions {
  /** Milliseconds for which a connection may wait for a further request. Default 95,000. */
  readonly keepAliveMs?: number | undefined
}

/**
 * @param onError is told the code of every error that a handler threw, before the client is
 * @param limits those that are not given have their defaults
 */
export function makeApp(
  registry: Registry,
  onError: (code: string) => void,
  limits: Partial<BodyLimits> = {},
): App {
  const bodies = new Bodies({ ...bodyLimits, ...limits })
  const app: App = new Hono()
  app.use((c, next) => {
    c.set('text', () => bodies.text(c.env))
    return next()
  })
  app.notFound((c) => {
    const { method, path } = c.req
    const methods = methodsOf(app, path)
    if (methods.length === 0) {
      return refuse(c, 404, 'not_found', `There is no ${method} ${path} on this server.`)
    }
    c.header('allow', methods.join(', '))
    if (method === 'OPTIONS') return c.body(null, 204)
    const message = `${path} does not take ${method}: use ${methods.join(', ')}.`
    return refuse(c, 405, 'method_not_allowed', message)
  })
  app.onError((cause, c) => {
    const error = httpError(cause)
    onError(error.body.error.code)
    return fail(c, error)
  })
  app.get('/metrics', async (c) =>
    c.body(await registry.metrics(), 200, { 'content-type': registry.contentType }),
  )
  return app
}

/** What a path answers to, if there is such a path. */
function methodsOf(app: App, path: string): readonly string[] {
  const own = app.routes.filter((route) => route.path === path).map(({ method }) => method)
  if (own.length === 0) return []
  return [...own, ...(own.includes('GET') ? ['HEAD'] : []), 'OPTIONS']
}

/** `value` as a JSON answer. */
export function json(c: Context, value: unknown, status = 200): Response {
  return c.body(JSON.stringify(value), status as ContentfulStatusCode, {
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
  const closed = () => {
    if (!outgoing.writableFinished) {
      controller.abort(new KvxError('ERR_KVX_ABORTED', 'The client closed its connection.'))
    }
  }
  if (outgoing.destroyed) closed()
  else outgoing.once('close', closed)
  return controller.signal
}

export interface Listening {
  /** Without the brackets of IPv6. */
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

export interface ListenOptions {
  readonly host: string
  /** 0 chooses a free one. */
  readonly port: number
  readonly http?: HttpOptions | undefined
  readonly log?: Log | undefined
  /** Those that are not given have their defaults. */
  readonly limits?: Partial<ConnectionLimits>
}

/** @throws KvxError `ERR_KVX_ADDRESS_UNAVAILABLE` when the address cannot be listened on */
export async function listen(
  app: App,
  { host: written, port, http = {}, log = silentLog, limits }: ListenOptions,
): Promise<Listening & { endIdle(): void }> {
  const host = bareHost(written)
  const listener = getRequestListener(app.fetch, {
    overrideGlobalObjects: false,
    // What a client still sends after its answer is `Connections`' to drop.
    autoCleanupIncoming: false,
    errorHandler: (cause) =>
      new Response(null, { status: cause instanceof RequestError ? 400 : 500 }),
  })
  const server = createServer({ connectionsCheckingInterval: 1_000 })
  const keepAliveMs = http.keepAliveMs ?? connectionLimits.keepAliveMs
  const connections = new Connections(server, { ...connectionLimits, keepAliveMs, ...limits }, log)
  await bind(server, host, port)
  server.on('error', (cause) => {
    log.error({ err: cause }, 'a connection could not be accepted')
  })
  const address = server.address() as AddressInfo
  const admit = makeAdmission(http, host, address.address)
  const serve = (request: IncomingMessage, response: ServerResponse) => {
    connections.add(request, response)
    const { method = '', url = '', headers } = request
    const verdict = admit({ method, url, headers })
    for (const [name, value] of Object.entries(verdict.headers)) response.setHeader(name, value)
    if (verdict.answer === undefined) void listener(request, response)
    else answer(response, verdict.answer)
  }
  server.on('request', serve)
  // Who asks before it sends its body is told to go on only when somebody is about to read it.
  server.on('checkContinue', serve)
  let closed: Promise<void> | undefined
  return {
    host,
    port: address.port,
    url: `http://${urlHost(host)}:${String(address.port)}`,
    endIdle: () => {
      connections.endIdle()
    },
    close: () =>
      (closed ??= new Promise<void>((resolve) => {
        server.close(() => {
          resolve()
        })
        server.closeAllConnections()
      })),
  }
}

function answer(response: ServerResponse, what: Verdict['answer'] & {}): void {
  if (what === 'preflight') response.writeHead(204).end()
  else {
    response.writeHead(what.status, { 'content-type': 'application/json' })
    response.end(JSON.stringify(what.body))
  }
}

function bind(server: Server, host: string, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const failed = (cause: NodeJS.ErrnoException) => {
      reject(new KvxError('ERR_KVX_ADDRESS_UNAVAILABLE', bindMessage(cause, host, port), { cause }))
    }
    server.once('error', failed)
    server.listen(port, host, () => {
      server.off('error', failed)
      resolve()
    })
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
      return `${where} cannot be listened on: ${systemReason(cause)}.`
  }
}
