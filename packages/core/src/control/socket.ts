import { maxMessageBytes } from './codec.ts'

/** A peer whose TCP connection is dead, whose process is stopped, or that does not finish its handshake is noticed within this time. */
export const defaultLivenessMs = 5_000

/** Messages that wait for a peer which does not read; and those that wait to be read here. */
const maxUnsent = 1_024
const maxUnread = 256

/**
 * Options that both kinds of socket share. Nothing here ever waits: a send that cannot be queued
 * fails at once. What peers without the token can hold is in `gate.ts`.
 */
export function socketOptions(livenessMs: number) {
  return {
    linger: 200,
    sendTimeout: 0,
    sendHighWaterMark: maxUnsent,
    receiveHighWaterMark: maxUnread,
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
