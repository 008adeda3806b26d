/** An answer in JSON whose headers leave before it is known. */
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response'
import type { AppContext } from './server.ts'

export interface LaterAnswer {
  /** An error is told in the body as well: the status has left. */
  end(value: unknown): Response
}

/** Sends the headers at once. */
export function answerLater(c: AppContext): LaterAnswer {
  const { outgoing } = c.env
  outgoing.writeHead(200, { 'content-type': 'application/json' })
  outgoing.flushHeaders()
  return {
    end(value) {
      if (!outgoing.destroyed) outgoing.end(JSON.stringify(value))
      return RESPONSE_ALREADY_SENT
    },
  }
}
