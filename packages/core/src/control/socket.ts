import { maxMessageBytes } from './codec.ts'

/** A peer whose TCP connection is dead, whose process is stopped, or that does not finish its handshake is noticed within this time. */
export const defaultLivenessMs = 5_000

/** Bytes of messages that may wait for a peer, beside what its requests account for. One more ends the connection. */
export const baseUnsentBytes = 64 * 1024 * 1024

/** Frames of a peer that wait to be read here. */
const maxUnread = 64

/**
 * Options that both kinds of socket share. Nothing here ever waits: a send that cannot be queued
 * fails at once. What waits to be sent is in `outbox.ts` and, as what peers without the token can hold, in `gate.ts`.
 */
export function socketOptions(livenessMs: number) {
  return {
    linger: 200,
    sendTimeout: 0,
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
