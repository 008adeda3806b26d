/** The workers that a router knows. */
import { KvxError } from '@kvx/core/backend'
import { unreachable } from './leg.ts'

export interface Worker {
  readonly role: 'prefill' | 'decode'
  readonly url: string
  /** Requests that it is working on for this router. */
  live: number
}

export interface PrefillWorker extends Worker {
  /** As decode is to reach the bootstrap service: without the brackets of IPv6. */
  readonly host: string
  /** Given, or asked from the worker and kept until `forgetPort`. */
  port(signal: AbortSignal): Promise<number>
  /** After a failure: a worker that was restarted may have chosen another port. */
  forgetPort(): void
}

/** Milliseconds in which a worker answers a question that needs no model. */
const askTimeoutMs = 5_000

export function decodeWorker(url: string): Worker {
  return { role: 'decode', url: checkUrl(url).origin, live: 0 }
}

export function prefillWorker(url: string, given: number | undefined): PrefillWorker {
  const { origin, hostname } = checkUrl(url)
  let known = given
  return {
    role: 'prefill',
    url: origin,
    host: hostname.replace(/^\[|\]$/g, ''),
    live: 0,
    async port(signal) {
      known ??= await askPort(origin, signal)
      return known
    },
    forgetPort() {
      known = given
    },
  }
}

async function askPort(url: string, signal: AbortSignal): Promise<number> {
  const info = (await ask(`${url}/server_info`, signal).catch((cause: unknown) => {
    throw unreachable('prefill', url, cause)
  })) as { bootstrap_port?: unknown; disaggregation_mode?: unknown } | null
  const port = info?.bootstrap_port
  if (typeof port === 'number') return port
  throw new KvxError(
    'ERR_KVX_INVALID_OPTION',
    `The worker at ${url} publishes no bootstrap port: it runs in mode ${String(info?.disaggregation_mode)}, but a prefill worker is needed.`,
    { peer: url },
  )
}

/** The JSON that a GET answers with. Rejects when it fails or takes too long. */
export async function ask(url: string, signal?: AbortSignal): Promise<unknown> {
  const timeout = AbortSignal.timeout(askTimeoutMs)
  const response = await fetch(url, {
    signal: signal === undefined ? timeout : AbortSignal.any([signal, timeout]),
  })
  if (!response.ok) {
    await response.body?.cancel()
    throw new Error(`it answered ${String(response.status)}`)
  }
  return response.json()
}

function checkUrl(url: string): URL {
  const parsed = URL.canParse(url) ? new URL(url) : undefined
  if (parsed?.protocol === 'http:' || parsed?.protocol === 'https:') return parsed
  throw new KvxError(
    'ERR_KVX_INVALID_OPTION',
    `'${url}' is no worker's address: write it as http://host:port.`,
  )
}
