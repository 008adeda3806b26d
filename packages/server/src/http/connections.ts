/**
 * The connections of an HTTP server: how many there may be, how long one may wait for a further request, and how long
 * a client may take nothing of what was sent to it.
 */
import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { Log } from '@kvx/contract'

const maxConnections = 4096
/** From the first byte of a request, or from the connection, until its headers are complete. */
const headersMs = 10_000
/** Proxies keep connections for 60 to 90 s, and send into one that is just being closed. */
const keepAliveMs = 95_000
const clientStalledMs = 30_000
/** What a refused client still sends is read and dropped for so long: who is cut off while sending sees no answer. */
const lingerMs = 500
/** Between two lines of the log about connections that were turned away. */
const tellEveryMs = 10_000

export interface ConnectionLimits {
  readonly connections: number
  readonly headersMs: number
  readonly keepAliveMs: number
  readonly clientStalledMs: number
}

export const connectionLimits: ConnectionLimits = {
  connections: maxConnections,
  headersMs,
  keepAliveMs,
  clientStalledMs,
}

export class Connections {
  /** Requests that are worked on. Of a connection that has asked nothing yet: undefined. */
  readonly #running = new Map<Socket, number | undefined>()
  #closing = false

  constructor(server: Server, limits: ConnectionLimits, log: Log) {
    server.maxConnections = limits.connections
    server.headersTimeout = limits.headersMs
    server.keepAliveTimeout = limits.keepAliveMs
    server.timeout = limits.clientStalledMs
    server.on('connection', (socket: Socket) => {
      this.#running.set(socket, undefined)
      socket.once('close', () => this.#running.delete(socket))
      // Better one that waits for its next request than one that brings one.
      if (this.#running.size >= limits.connections) this.#closeIdle()
    })
    // No byte went either way for a while, or as long as a connection may be kept.
    server.on('timeout', (socket: Socket) => {
      const waits = (this.#running.get(socket) ?? 0) === 0
      if (waits || socket.writableLength > 0) socket.destroy()
    })
    let toldAt = -Infinity
    server.on('drop', () => {
      if (performance.now() - toldAt < tellEveryMs) return
      toldAt = performance.now()
      log.warn({ connections: limits.connections }, 'connections are turned away: all are in use')
    })
  }

  /** Counts a request until its answer has left. */
  add(request: IncomingMessage, response: ServerResponse): void {
    const { socket } = request
    this.#running.set(socket, (this.#running.get(socket) ?? 0) + 1)
    response.once('finish', () => {
      if (request.complete) return
      request.resume()
      setTimeout(() => socket.destroy(), lingerMs).unref()
    })
    response.once('close', () => {
      if (socket.destroyed) return
      this.#running.set(socket, (this.#running.get(socket) ?? 1) - 1)
      if (this.#closing) this.#closeIdle()
    })
  }

  /** Ends every connection that waits for a further request, now, and the others after their answers. */
  endIdle(): void {
    this.#closing = true
    this.#closeIdle()
  }

  #closeIdle(): void {
    for (const [socket, running] of this.#running) if (running === 0) socket.destroy()
  }
}
