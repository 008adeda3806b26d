import { isIP } from 'node:net'
import { maxMessageBytes } from './codec.ts'

/** How one process of a deployment reaches another, as text and in parts. */
export function formatEndpoint(host: string, port: number): string {
  return `tcp://${host.includes(':') ? `[${host}]` : host}:${port}`
}

/** Host and port of `tcp://host:port` or `tcp://[v6]:port`; undefined when it is neither. */
export function parseEndpoint(endpoint: string): { host: string; port: number } | undefined {
  const match = /^tcp:\/\/(?:\[([^[\]]+)\]|([^:/[\]\s]+)):(\d{1,5})$/.exec(endpoint)
  const host = match?.[1] ?? match?.[2]
  const port = Number(match?.[3])
  if (host === undefined || port > 65_535) return undefined
  if (match?.[1] !== undefined && isIP(host) !== 6) return undefined
  return { host, port }
}

/** A peer whose TCP connection is dead, whose process is stopped, or that does not finish its handshake is noticed within this time. */
export const defaultLivenessMs = 5_000

/**
 * Options that both kinds of socket share. Nothing here ever waits: a send that cannot be queued
 * fails at once. What peers without the token can hold is in `gate.ts`.
 */
export function socketOptions(livenessMs: number) {
  return {
    linger: 200,
    sendTimeout: 0,
    sendHighWaterMark: 1_024,
    receiveHighWaterMark: 256,
    // Room for what CURVE and ZMTP put around a message.
    maxMessageSize: maxMessageBytes + 256,
    handshakeInterval: livenessMs,
    // A peer is given up when it leaves a ZMTP ping unanswered.
    heartbeatInterval: Math.ceil(livenessMs / 2),
    heartbeatTimeout: Math.ceil(livenessMs / 2),
  }
}

/**
 * The server sends this single byte, which is no message, only to learn whether a connection still
 * exists; clients ignore it.
 */
export const probeFrame = new Uint8Array([0])
/** The server has given this connection up: the client must make a new one. */
export const closeFrame = new Uint8Array([1])
