/** A request to a worker, without a clock of its own: a leg may queue for as long as its worker lives. */
import { request as httpRequest, type IncomingMessage } from 'node:http'
import { request as httpsRequest } from 'node:https'

/** Milliseconds in which a worker's machine takes a connection. */
const connectMs = 10_000

/**
 * Resolves with the head of the answer; its body is read by whoever wants it. Rejects with the reason of `signal`,
 * or with a system error, whose code is `ETIMEDOUT` when no connection was made in time.
 */
export function post(
  url: string,
  body: Buffer,
  headers: Readonly<Record<string, string>>,
  signal: AbortSignal,
): Promise<IncomingMessage> {
  const send = url.startsWith('https:') ? httpsRequest : httpRequest
  return new Promise((resolve, reject) => {
    signal.throwIfAborted()
    const request = send(url, {
      method: 'POST',
      // A connection for each leg: one that was kept might be closed by the worker while it is used again.
      agent: false,
      headers: { ...headers, 'content-length': body.length },
      signal,
    })
    request.once('response', resolve)
    request.on('error', (cause) => {
      reject(reasonOf(signal, cause))
    })
    request.once('socket', (socket) => {
      const late = setTimeout(() => {
        const text = `no connection was made within ${String(connectMs / 1_000)} s`
        request.destroy(Object.assign(new Error(text), { code: 'ETIMEDOUT', syscall: 'connect' }))
      }, connectMs)
      const stop = () => {
        clearTimeout(late)
      }
      socket.once('connect', stop)
      socket.once('close', stop)
    })
    request.end(body)
  })
}

/** What ended it: an aborted signal says more than the error of the socket that was closed for it. */
function reasonOf(signal: AbortSignal, cause: Error): Error {
  return signal.aborted ? (signal.reason as Error) : cause
}

/** The bytes of a body as they come. Throws as `post`. */
export async function* bytesOf(
  response: IncomingMessage,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array, void> {
  try {
    for await (const bytes of response) yield bytes as Uint8Array
  } catch (cause) {
    throw reasonOf(signal, cause as Error)
  }
}
