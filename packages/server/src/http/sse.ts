/** Server-sent events, written straight to the socket so that the headers leave before the first event. */
import { once } from 'node:events'
import type { ServerResponse } from 'node:http'
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response'
import type { AppContext } from './server.ts'

export interface EventStream {
  /** Waits for the client when it reads more slowly than we write. */
  send(event: unknown): Promise<void>
  /** Drops the event when the client still has to read earlier ones. */
  offer(event: unknown): void
  end(): void
  /** Sends a last event and cuts the connection: a client that ignores the event still sees a failure. */
  fail(event: unknown): Promise<void>
}

/** Sends the headers at once: routers wait for those of both legs before they look at either. */
export function openEventStream(c: AppContext): { stream: EventStream; response: Response } {
  const { outgoing } = c.env
  outgoing.writeHead(200, {
    'content-type': 'text/event-stream; charset=utf-8',
    'cache-control': 'no-cache',
    'x-accel-buffering': 'no',
  })
  outgoing.flushHeaders()
  return { stream: eventStream(outgoing), response: RESPONSE_ALREADY_SENT }
}

function eventStream(outgoing: ServerResponse): EventStream {
  const gone = new AbortController()
  outgoing.once('close', () => {
    gone.abort()
  })
  const send = async (event: unknown) => {
    if (outgoing.destroyed) return
    if (!outgoing.write(`data: ${JSON.stringify(event)}\n\n`)) {
      await once(outgoing, 'drain', { signal: gone.signal }).catch(() => undefined)
    }
  }
  return {
    send,
    offer: (event) => {
      if (!outgoing.destroyed && outgoing.writableLength === 0) void send(event)
    },
    end: () => {
      outgoing.end('data: [DONE]\n\n')
    },
    fail: async (event) => {
      if (outgoing.destroyed) return
      // Destroyed only once the event is out, else it would be lost with the connection.
      await new Promise<void>((resolve) => {
        outgoing.once('close', resolve)
        outgoing.write(`data: ${JSON.stringify(event)}\n\n`, () => {
          outgoing.destroy()
          resolve()
        })
      })
    },
  }
}
