/**
 * Everything the prefill side knows. The reducer (`step.ts`) changes it in place and answers with
 * effects; it has no clock, no randomness and no I/O, so that production and simulation run the same code.
 */
import type { DeviceWork, FenceKind, KvxError, TransferPlan } from '@kvx/contract'
import type { Aux, Deadlines, Limits, TransferSummary } from '../../manager/types.ts'
import type { PackedPlace, Place } from '../../place/index.ts'
import type { Moved, Pairing, Prompt } from '../../plan/index.ts'
import type { CacheShape, PackedShape } from '../../shape/index.ts'
import { makeBays, type Bay, type Bays, type StagingSize } from '../bays.ts'
import type { Draining, PeerGone, Sample } from '../keys.ts'
import type { Message, PageLists } from '../messages.ts'
import type { Coverage, Range, Rank } from '../../share/index.ts'
import type { Unreadable } from '../unreadable.ts'

export interface PrefillSelf {
  readonly incarnation: string
  readonly instance: string
  readonly rank: Rank
  readonly backend: string
  readonly version: string
  readonly fence: FenceKind
  /** Where short runs are gathered; undefined: they are written as they are. */
  readonly staging: PrefillStaging | undefined
  readonly shape: CacheShape
  readonly place: Place
  /** Both as they travel. */
  readonly packed: { readonly shape: PackedShape; readonly place: PackedPlace }
  readonly deadlines: Deadlines
  readonly limits: Limits
}

export interface PrefillStaging extends StagingSize {
  /** Plans are gathered whose runs are shorter than so many bytes in the mean. */
  readonly shortRun: number
  /** And that have so many of them at least: fewer are written sooner than decode answers. */
  readonly fewestRuns: number
  /** Number of the region that is the staging memory. */
  readonly region: number
}

export interface PrefillState {
  readonly self: PrefillSelf
  /** Of this side's engine: what a decode fences. */
  generation: string
  /** Of the staging memory of that engine. */
  bays: Bays
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
  readonly ended: Map<string, Ended>
  /** By the number the manager gave. */
  readonly senders: Map<number, Sender>
  readonly pieces: Map<number, Piece>
  nextPiece: number
  /** Messages that changed nothing, by reason. */
  readonly dropped: Map<string, number>
}

/** How a leg ended, and whether it is still published. */
interface Ended {
  readonly error: KvxError | undefined
  readonly until: number
  readonly published: Sample | undefined
}

export interface Peer {
  readonly incarnation: string
  readonly session: string
  readonly instance: string
  readonly rank: Rank
  /** Of its shape and place as it told them. */
  readonly cacheDigest: Uint8Array
  /** What this rank sends to it. */
  readonly pairing: Pairing
  /** All ranks of its instance that this one sends to, itself among them. */
  readonly served: readonly Rank[]
  /** Tokens of which a prefix there is a multiple, unless it is the whole prompt. */
  readonly prefixBlock: number
  /** Pages, or slots, that it has of each component. */
  readonly pages: Readonly<Record<string, number>>
  generation: string
  /** Of its engine: what this side's engine connects to. */
  address: Uint8Array
  regions: readonly Uint8Array[]
  /** Its staging memory, which counts as one region more; undefined: short runs are written as they are. */
  staging: { readonly region: Uint8Array; readonly bayBytes: number } | undefined
  connection: string
  /** As its last hello said. */
  fences: number
  /** `opening`: the engine connects. `lost`: its transfers failed; kept until they have settled. */
  link: 'opening' | 'open' | 'lost'
  /** Generation that the engine is being connected to. */
  connecting: string | undefined
  /** That link was closed meanwhile: whatever the attempt says at its end, it is not there. */
  isAttemptClosed: boolean
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
  readonly prompt: Prompt
  readonly digest: Uint8Array
  /** Whether decode wants digests of what was sent. */
  readonly digests: boolean
  /** The room had been sent before, to its end. */
  readonly consumed: boolean
  /** Where to, by component: pages of what it needs of the prompt, or slots. Undefined until they are provided. */
  pages: PageLists | undefined
  phase: 'parked' | 'paired' | 'complete' | 'failed'
  /** parked, and paired while pages are asked for: when it fails; complete and failed: when it is forgotten. */
  deadline: number
  asked: boolean
  /** Per component: tokens, or slots, times layers, and bytes that have landed. */
  readonly landed: Record<string, { units: number; bytes: number }>
  /** Loads that were asked for, by number, until they are scattered or written as they are. */
  readonly loads: Map<number, Piece>
  /** Number of the last load that was asked for. */
  lastLoad: number
  stagedBytes: number
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
  readonly deadlines: Deadlines
  phase: 'waiting' | 'paired' | 'finishing' | 'completing' | 'success' | 'failed'
  deadline: number
  /** Until then it may wait for a request that is queued at decode. */
  readonly queueEnd: number
  /** The decode rank that said last that the request is queued there. */
  queuedBy: Peer | undefined
  /** The host said that it waits for its turn here. */
  queued: boolean
  /** What this rank has published at the bootstrap service for it. */
  readonly published: Sample | undefined
  targets: Transfer[]
  /** The host called `ready()`, perhaps before decode was there. */
  wantsPages: boolean
  /** By component: what the host has written. */
  readonly written: Map<string, Written>
  chunks: number
  /** Writes of the host that are not yet wholly posted, by write number. */
  readonly writes: Map<number, number>
  unsettled: number
  /** Of `finish`. */
  aux: Aux | undefined
  error: KvxError | undefined
  settledTold: boolean
}

/** What the host has written of one component. */
export interface Written {
  /** In positions: tokens by their numbers among those that this rank has of the prompt. Of slots: from 0 to 1. */
  coverage: Coverage
  /** The source page of each page that this rank has of the prompt, −1 before it was named; or the slots. */
  source: Int32Array
}

/** What one `write` moves to one target. */
export interface Piece {
  readonly id: number
  readonly transfer: Transfer
  readonly sender: Sender
  /** Number of the host's write; 0 for what `finish` sends. */
  readonly write: number
  parts: readonly PiecePart[]
  /** What a device must have done before any of it is read. */
  readonly after: DeviceWork | undefined
  /** Made when decode's pages are known; with what it moves of each part. */
  planned:
    | { readonly plan: TransferPlan; readonly moved: readonly Moved[]; readonly bytes: number }
    | undefined
  /** Set while it is to take its way through a bay. */
  load: Load | undefined
  /** Bytes of its peer's limit that it holds. */
  credit: number
  /**
   * A load is asked for, gathered, posted as one long run, and staged when that has landed; any other piece is posted.
   */
  status: 'queued' | 'asking' | 'gathering' | 'posted' | 'staged' | 'done' | 'failed'
  /** From asking or posting on: when it fails, whatever engine and decode do. */
  deadline: number
  /** When it failed or was cancelled; it may still land until it settles. */
  failedAt: number | undefined
  /** Its engine was closed, and could not promise that the target has read everything. Its source is free. */
  abandoned: boolean
}

/** How a piece takes its way through a bay. */
export interface Load {
  /** Among those of its transfer, from 1; 0 while it is queued. */
  number: number
  /** Where it is gathered. */
  bay: Bay | undefined
  /** Where its bay in decode's staging memory begins. */
  offset: number
  /** It waits so long for a bay of this side, from when it has found none; then it is written as it is. */
  patience: number
  /** Its long run has been posted. */
  posted: boolean
  /** That has settled. */
  settled: boolean
}

/** Pages of one component, or its slots; where they go is known once decode has named its own. */
export interface PiecePart {
  readonly component: string
  readonly layers: Range
  /** Of pages: the number of the first, among those that this rank has of the prompt. Absent for slots. */
  readonly first?: number
  readonly source: Int32Array
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
      /** Decode is to learn from the bootstrap service that it is computed here. */
      published: Sample | undefined
      deadlines: Deadlines
    }
  | { type: 'host.ready'; sender: number }
  | { type: 'host.queued'; sender: number; queued: boolean }
  | {
      type: 'host.write'
      sender: number
      write: number
      /** Of the prompt; absent when only slots are written. */
      tokens: Range | undefined
      pages: PageLists
      state: PageLists
      layers: Range | undefined
      after?: DeviceWork | undefined
    }
  | {
      type: 'host.finish'
      sender: number
      state: PageLists
      aux: Aux
      after?: DeviceWork | undefined
    }
  | { type: 'host.abort'; sender: number; reason: unknown }
  | ({ type: 'host.drain' } & Draining)
  | { type: 'piece.done'; piece: number }
  | { type: 'piece.failed'; piece: number; error: KvxError }
  | { type: 'piece.settled'; piece: number }
  | { type: 'load.gathered'; piece: number; error?: KvxError | undefined }
  | {
      type: 'digests'
      sender: number
      epoch: number
      peer: string
      digests: Readonly<Record<string, Uint8Array>>
    }
  | { type: 'digests.failed'; sender: number; error: KvxError }
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
      timeoutMs: number
    }
  | { do: 'closeLink'; peer: string; generation: string }
  | {
      do: 'post'
      piece: number
      peer: string
      generation: string
      plan: TransferPlan
      deadlineMs: number
      after: DeviceWork | undefined
    }
  | { do: 'cancel'; piece: number }
  /** Into the staging memory, from `offset` on. */
  | { do: 'gather'; piece: number; plan: TransferPlan; offset: number }
  /** The bootstrap service is to say that this data-parallel rank computes it. */
  | ({ do: 'publish' } & Sample)
  | ({ do: 'withdraw' } & Sample)
  | { do: 'recycle' }
  | {
      do: 'digest'
      sender: number
      epoch: number
      peer: string
      pairing: Pairing
      prompt: Prompt
      /** All source pages, and slots, of the request. */
      source: PageLists
    }
  | {
      do: 'sender.reserved'
      sender: number
      prefixTokens: number
      /** By component: the first token that any decode rank needs. */
      firstTokens: Readonly<Record<string, number>>
    }
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
  /** A bay of this side was given back: what waits for one goes on when all else is done. */
  isBayFree: boolean
}

export function createPrefill(self: PrefillSelf, generation: string): PrefillState {
  return {
    self,
    generation,
    bays: makeBays(self.staging),
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
