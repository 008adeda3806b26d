import type { KvxError } from '../backend/index.ts'
import { clip } from './messages.ts'

/** What pairs the two legs of a request. */
export function roomKey(room: bigint, index: number): string {
  return `${String(room)}/${String(index)}`
}

export function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i])
}

/** What an error tells the other side. */
export function failureFields(error: KvxError) {
  return {
    code: error.code,
    text: clip(error.message),
    ...(error.phase === undefined ? {} : { phase: error.phase }),
    ...(error.peer === undefined ? {} : { peer: error.peer.slice(0, 200) }),
    ...(error.rank === undefined ? {} : { rank: error.rank.slice(0, 200) }),
  }
}

/** Counts something that changed nothing. */
export function count(counts: Map<string, number>, what: string): void {
  counts.set(what, (counts.get(what) ?? 0) + 1)
}
