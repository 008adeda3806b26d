/**
 * Who may ask an HTTP server at all, judged by the headers of a request before anything is done for it. Browsers
 * reach servers that nobody else can, so a page on the web must not be able to use one: neither under a name of its
 * own that it has pointed at this machine (`Host`), nor from its own origin (`Origin`).
 */
import { createHash, timingSafeEqual } from 'node:crypto'
import type { IncomingHttpHeaders } from 'node:http'
import { hostOf, isLoopback } from './address.ts'
import { plainError, type HttpError } from './errors.ts'

export interface AdmissionOptions {
  /** Every request but GET /health and those for the dashboard's page, which has no data in it, must carry it as `authorization: Bearer …`. */
  readonly apiKey?: string | undefined
  /** Names under which the server is reached besides its own. Default, unless it listens on loopback: any. */
  readonly allowedHosts?: readonly string[] | undefined
  /** Origins whose pages may use the server, such as `https://chat.example`; `*` is all. */
  readonly allowedOrigins?: readonly string[] | undefined
}

export interface Asked {
  readonly method: string
  readonly url: string
  readonly headers: IncomingHttpHeaders
}

export interface Verdict {
  /** Of the answer, whatever it is. */
  readonly headers: Readonly<Record<string, string>>
  /** The request goes no further: it is refused, or was only the question of a browser whether it may ask. */
  readonly answer?: HttpError | 'preflight'
}

/**
 * @param host the server's own, as it was configured
 * @param address the address that it listens on
 */
export function makeAdmission(
  { apiKey, allowedHosts = [], allowedOrigins = [] }: AdmissionOptions,
  host: string,
  address: string,
): (asked: Asked) => Verdict {
  const local = isLoopback(address)
  const hosts = new Set([host, ...allowedHosts].map((name) => hostOf(name) ?? name.toLowerCase()))
  const origins = new Set(allowedOrigins.map((origin) => origin.toLowerCase().replace(/\/$/, '')))
  const key = apiKey === undefined ? undefined : digest(apiKey)

  const hostAllowed = (header: string | undefined) => {
    // Only HTTP/1.0 goes without one, and no browser speaks that.
    if (header === undefined || (!local && allowedHosts.length === 0)) return true
    const name = hostOf(header)
    return name !== undefined && (isLoopback(name) || hosts.has(name))
  }
  const originAllowed = (origin: string, own: string | undefined) => {
    if (origins.has('*') || origins.has(origin.toLowerCase())) return true
    const authority = /^https?:\/\/([^/]+)$/i.exec(origin)?.[1]?.toLowerCase()
    if (authority === undefined) return false
    return authority === own?.toLowerCase() || (local && isLoopback(hostOf(authority) ?? ''))
  }

  return ({ method, url, headers }) => {
    if (!hostAllowed(headers.host)) {
      return refuse(403, 'host_not_allowed', {
        message: `This server is not known as ${quote(headers.host)}: use its own address, or allow the name with --allowed-hosts.`,
      })
    }
    const { origin } = headers
    if (origin !== undefined && !originAllowed(origin, headers.host)) {
      return refuse(403, 'origin_not_allowed', {
        message: `Web pages of ${quote(origin)} may not use this server: allow them with --allowed-origins.`,
      })
    }
    const cors: Record<string, string> =
      origin === undefined
        ? {}
        : {
            'access-control-allow-origin': origin,
            'access-control-expose-headers': 'retry-after',
            vary: 'origin',
          }
    // A browser asks without the key whether it may send it.
    if (method === 'OPTIONS' && origin !== undefined && isPreflight(headers)) {
      return { headers: { ...cors, ...preflight(headers) }, answer: 'preflight' }
    }
    if (key !== undefined && !isOpen(method, url) && !carries(headers.authorization, key)) {
      const what = headers.authorization === undefined ? 'needs its key' : 'does not know this key'
      return refuse(401, 'invalid_api_key', {
        message: `This server ${what}: send the header authorization: Bearer KEY.`,
        headers: { ...cors, 'www-authenticate': 'Bearer realm="kvx"' },
      })
    }
    return { headers: cors }
  }
}

function refuse(
  status: number,
  code: string,
  { message, headers = {} }: { message: string; headers?: Record<string, string> },
): Verdict {
  return { headers, answer: plainError(status, code, message) }
}

/** What a browser asks for before it knows the key, and who only looks whether somebody lives. */
const open = new Set(['/health', '/dashboard', '/dashboard/style.css', '/dashboard/app.js'])

const isOpen = (method: string, url: string) =>
  (method === 'GET' || method === 'HEAD') && open.has(url.split('?')[0] ?? '')

/** Of equal length, so that the comparison takes the same time for every wrong key. */
const digest = (key: string) => createHash('sha256').update(key).digest()

function carries(authorization: string | undefined, key: Buffer): boolean {
  const given = /^bearer +(\S+)\s*$/i.exec(authorization ?? '')?.[1]
  return given !== undefined && timingSafeEqual(digest(given), key)
}

const isPreflight = (headers: IncomingHttpHeaders) =>
  headers['access-control-request-method'] !== undefined

function preflight(headers: IncomingHttpHeaders): Record<string, string> {
  const asked = headers['access-control-request-headers']
  return {
    'access-control-allow-methods': 'GET, HEAD, POST',
    ...(asked !== undefined && { 'access-control-allow-headers': asked }),
    ...(headers['access-control-request-private-network'] === 'true' && {
      'access-control-allow-private-network': 'true',
    }),
    'access-control-max-age': '600',
  }
}

/** What a stranger wrote, as part of a sentence. */
const quote = (text: string | undefined) => JSON.stringify((text ?? '').slice(0, 100))
