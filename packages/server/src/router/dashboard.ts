/** The router's dashboard shows all of its workers: their events are passed on to whoever looks, as long as somebody does. */
import { setTimeout as delay } from 'node:timers/promises'
import { EventSourceParserStream } from 'eventsource-parser/stream'
import type { FeedMessage } from '../dashboard/feed.ts'
import { openEventStream, type EventStream } from '../http/sse.ts'
import type { AppContext } from '../http/server.ts'
import type { Worker } from './workers.ts'

/** Milliseconds until a worker that tells nothing is asked again. */
const againMs = 2_000

export function streamOfAll(
  c: AppContext,
  workers: readonly Worker[],
  apiKey: string | undefined,
): Response {
  const { stream, response } = openEventStream(c)
  const gone = new AbortController()
  c.env.outgoing.once('close', () => {
    gone.abort()
  })
  for (const worker of workers) void follow(worker, apiKey, stream, gone.signal)
  return response
}

async function follow(
  worker: Worker,
  apiKey: string | undefined,
  stream: EventStream,
  gone: AbortSignal,
): Promise<void> {
  const { url, role } = worker
  while (!gone.aborted) {
    try {
      for await (const message of messagesOf(url, apiKey, gone)) {
        await stream.send({ ...message, source: { name: url, role } })
      }
    } catch {
      // It is not there, or has ended: the page is told, and it is asked again.
    }
    await stream.send({ source: { name: url, role }, gone: true })
    await delay(againMs, undefined, { signal: gone }).catch(() => undefined)
  }
}

async function* messagesOf(
  url: string,
  apiKey: string | undefined,
  signal: AbortSignal,
): AsyncGenerator<FeedMessage, void> {
  const headers = apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` }
  const { ok, body } = await fetch(`${url}/dashboard/events`, { headers, signal })
  if (!ok || body === null) return
  const events = body
    .pipeThrough(new TextDecoderStream())
    .pipeThrough(new EventSourceParserStream())
  for await (const { data } of events) yield JSON.parse(data) as FeedMessage
}
