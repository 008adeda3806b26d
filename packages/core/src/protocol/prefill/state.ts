/**
 * Everything the prefill side knows. The reducer (`step.ts`) changes it in place and answers with
 * effects; it has no clock, no randomness and no I/O, so that production and simulation run the same code.
 */
import type { FenceKind, KvxError } from '@kvx/contract'
import type { Layout } from '../../layout/index.ts'
import type { Aux, Deadlines, Limits, TransferSummary } from '../../manager/types.ts'
import type { Planner, PlanPart } from '../../plan/index.ts'
import type { Draining, PeerGone } from '../keys.ts'
import type { Message } from '../messages.ts'
import type { Rank } from '../rank.ts'
import type { Unreadable } from '../unreadable.ts'
import type { Coverage } from './coverage.ts'

export interface PrefillSelf {
  readonly incarnation: string
  readonly instance: string
  readonly rank: Rank
  readonly backend: string
  readonly version: string
  readonly fence: FenceKind
  readonly layout: Layout
  readonly fingerprint: Uint8Array
  /** Layers whose KV this rank holds, ascending. */
  readonly kvLayers: readonly number[]
  readonly deadlines: Deadlines
  readonly limits: Limits
}

export interface PrefillState {
  readonly self: PrefillSelf
  /** Of this side's engine: what a decode fences. */
  generation: string
  /** Set while the engine is replaced because writes of it never settle. */
  recycle: { phase: 'draining' | 'closing'; deadline: number } | undefined
  /** Set once no new requests are taken. */
  draining: Draining | undefined
  /** Why no request can be taken any more. */
  broken: KvxError | undefined
  /** By decode incarnation. */
  readonly peers: Map<string, Peer>
  /** For which incarnation a connection speaks since its `hello`. */
  readonly connections: Map<string, string>
  /** By room and index: what is live there. */
  readonly rooms: Map<string, Room>
  /** Legs that ended, kept for the linger: a later reserve learns the first cause, or that all was sent. */
  readonly ended: Map<string, { error: KvxError | undefined; until: number }>
  /** By the number the manager gave. */
  readonly senders: Map<number, Sender>
  readonly pieces: Map<number, Piece>
  nextPiece: number
  /** Messages that changed nothing, by reason. */
  readonly dropped: Map<string, number>
}

export interface Peer {
  readonly incarnation: string
  readonly session: string
  readonly instance: string
  readonly rank: Rank
  readonly layout: Layout
  readonly layoutDigest: Uint8Array
  readonly planner: Planner
  /** Layers of the cache of which this rank holds bytes for it, ascending. */
  readonly kvLayers: readonly number[]
  generation: string
  /** Of its engine: what this side's engine connects to. */
  address: Uint8Array
  regions: readonly Uint8Array[]
  connection: string
  /** As its last hello said. */
  fences: number
  /** `opening`: the engine connects. `lost`: its transfers failed; kept until they have settled. */
  link: 'opening' | 'open' | 'lost'
  /** Generation that the engine is being connected to. */
  connecting: string | undefined
  /** Highest epoch seen in any message. At or below it and not in `transfers` means over. */
  watermark: number
  /** When it was last heard. */
  heard: number
  readonly transfers: Map<number, Transfer>
  /** Bytes posted and not settled. */
  inFlight: number
  /** Pieces that wait for a credit, first come first served. */
  readonly queue: Piece[]
}

/** One reserve of one decode rank. */
export interface Transfer {
  readonly peer: Peer
  readonly epoch: number
  readonly generation: string
  readonly key: string
  readonly tokens: number
  readonly digest: Uint8Array
  readonly prefixPages: number
  readonly prefixTokens: number
  readonly checksums: boolean
  /** The room had been sent before, to its end. */
  readonly consumed: boolean
  /** Destination pages, from the prefix on. Undefined until they are provided. */
  pages: Int32Array | undefined
  state: Readonly<Record<string, Int32Array>>
  phase: 'parked' | 'paired' | 'complete' | 'failed'
  /** parked, and paired while pages are asked for: when it fails; complete and failed: when it is forgotten. */
  deadline: number
  asked: boolean
  /** Per component: pages (for `kv` times layers) and bytes that have landed. */
  readonly landed: Record<string, { units: number; bytes: number }>
  /** Pieces queued or posted, until they have settled. */
  unsettled: number
  /** Kept whole until it was acknowledged, at most for the linger. */
  outcome: (Message & { k: 'complete' | 'failed' }) | undefined
  acked: boolean
  drainedSent: boolean
  /** How long bytes of it have been on their way, writes at the same time counted once. */
  readonly airtime: { posted: number; since: number; ms: number }
}

/** What shares a room and index: at most one sender, and one transfer per decode rank. */
export interface Room {
  readonly key: string
  sender: Sender | undefined
  readonly transfers: Set<Transfer>
}

export interface Sender {
  readonly id: number
  readonly key: string
  readonly tokens: number
  readonly digest: Uint8Array
  readonly pages: number
  readonly deadlines: Deadlines
  phase: 'waiting' | 'paired' | 'finishing' | 'completing' | 'success' | 'failed'
  deadline: number
  /** Until then it may wait for a request that is queued at decode. */
  readonly queueEnd: number
  /** The decode rank that said last that the request is queued there. */
  queuedBy: Peer | undefined
  /** The host said that it waits for its turn here. */
  queued: boolean
  targets: Transfer[]
  /** The host called `ready()`, perhaps before decode was there. */
  wantsPages: boolean
  /** Page index of the first page that any target needs. */
  prefixPages: number
  readonly coverage: Coverage
  chunks: number
  /** Writes of the host that are not yet wholly posted, by write number. */
  readonly writes: Map<number, number>
  unsettled: number
  last: { state: Readonly<Record<string, Int32Array>>; aux: Aux } | undefined
  error: KvxError | undefined
  settledTold: boolean
}

/** What one `write` moves to one target. */
export interface Piece {
  readonly id: number
  readonly transfer: Transfer
  readonly sender: Sender
  /** Number of the host's write; 0 for the state components that `finish` sends. */
  readonly write: number
  readonly parts: readonly PiecePart[]
  readonly bytes: number
  /** Bytes of its peer's limit that it holds. */
  credit: number
  status: 'queued' | 'posted' | 'done' | 'failed'
  /** posted: when it fails, whatever the engine does. */
  deadline: number
  /** When it failed or was cancelled; it may still land until it settles. */
  failedAt: number | undefined
  /** Its engine was closed, and could not promise that the target has read everything. Its source is free. */
  abandoned: boolean
}

/** Pages of one component; where they go is known once decode has named its pages. */
export interface PiecePart {
  readonly component: string
  readonly layers: readonly [number, number] | undefined
  readonly sourcePages: Int32Array
  /** Which of the transfer's pages the first one goes to; the pages of a state component all go together. */
  readonly first: number
  /** Pages, for `kv` times layers. */
  readonly units: number
  readonly bytes: number
}

export type PrefillEvent =
  | { type: 'message'; connection: string; message: Message }
  | ({ type: 'unreadable'; connection: string } & Unreadable)
  | { type: 'disconnected'; connection: string }
  | PeerGone
  | { type: 'link.open'; peer: string; generation: string }
  | { type: 'link.failed'; peer: string; generation: string; error: KvxError }
  | {
      type: 'host.send'
      sender: number
      key: string
      tokens: number
      digest: Uint8Array
      deadlines: Deadlines
    }
  | { type: 'host.ready'; sender: number }
  | { type: 'host.queued'; sender: number; queued: boolean }
  | {
      type: 'host.write'
      sender: number
      write: number
      start: number
      pages: Int32Array
      layers?: readonly [number, number] | undefined
    }
  | { type: 'host.finish'; sender: number; state: Readonly<Record<string, Int32Array>>; aux: Aux }
  | { type: 'host.abort'; sender: number; reason: unknown }
  | ({ type: 'host.drain' } & Draining)
  | { type: 'piece.done'; piece: number }
  | { type: 'piece.failed'; piece: number; error: KvxError }
  | { type: 'piece.settled'; piece: number }
  | { type: 'checksums'; sender: number; epoch: number; peer: string; checksums: Uint32Array }
  | { type: 'checksums.failed'; sender: number; error: KvxError }
  | { type: 'engine.recycled'; generation: string }
  | { type: 'engine.failed'; error: KvxError }
  | { type: 'tick' }

export type PrefillEffect =
  | { do: 'send'; connection: string; message: Message }
  | {
      do: 'openLink'
      peer: string
      generation: string
      address: Uint8Array
      regions: readonly Uint8Array[]
      planner: Planner
      timeoutMs: number
    }
  | { do: 'closeLink'; peer: string; generation: string }
  | {
      do: 'post'
      piece: number
      peer: string
      generation: string
      parts: readonly PlanPart[]
      deadlineMs: number
    }
  | { do: 'cancel'; piece: number }
  | { do: 'recycle' }
  | {
      do: 'checksum'
      sender: number
      epoch: number
      peer: string
      planner: Planner
      pages: Int32Array
    }
  | { do: 'sender.reserved'; sender: number; prefixTokens: number }
  | { do: 'sender.posted'; sender: number; write: number }
  /** A call that was wrong: it has changed nothing. */
  | { do: 'sender.rejected'; sender: number; error: KvxError }
  | { do: 'sender.finished'; sender: number; summary: TransferSummary }
  | { do: 'sender.failed'; sender: number; error: KvxError }
  | { do: 'sender.settled'; sender: number }

/** What a transfer has to tell its request. */
export type PrefillNews = { readonly transfer: Transfer } &
  /** `told`: decode knows already. */
  (
    | { happened: 'failed'; error: KvxError; told?: 'told' }
    /** Decode has named its pages. */
    | { happened: 'provided' }
    /** Decode has acknowledged that it is complete. */
    | { happened: 'acked' }
  )

/** What a step works with. */
export interface PrefillStep {
  readonly state: PrefillState
  readonly now: number
  readonly out: PrefillEffect[]
  /** Delivered by `step.ts` when the handler of the event has returned. */
  readonly news: PrefillNews[]
}

export function createPrefill(self: PrefillSelf, generation: string): PrefillState {
  return {
    self,
    generation,
    recycle: undefined,
    draining: undefined,
    broken: undefined,
    peers: new Map(),
    connections: new Map(),
    rooms: new Map(),
    ended: new Map(),
    senders: new Map(),
    pieces: new Map(),
    nextPiece: 1,
    dropped: new Map(),
  }
}
