/** Everything the decode side knows; changed in place by the reducer, as on the prefill side. */
import type { FenceKind, KvxError, TransferPlan } from '@kvx/contract'
import type { Aux, Deadlines, Limits, TransferSummary } from '../../manager/types.ts'
import type { PackedPlace, Place } from '../../place/index.ts'
import type { Pairing, Prompt } from '../../plan/index.ts'
import type { CacheShape, PackedShape } from '../../shape/index.ts'
import { makeBays, type Bay, type Bays, type StagingSize } from '../bays.ts'
import type { PeerGone, Sample } from '../keys.ts'
import type { Message, MessageOf, PageLists } from '../messages.ts'
import type { DpRank, Rank } from '../../share/index.ts'
import type { Unreadable } from '../unreadable.ts'

export interface DecodeSelf {
  readonly incarnation: string
  /** Secret of this incarnation; never published or logged. */
  readonly session: string
  readonly instance: string
  readonly rank: Rank
  readonly backend: string
  readonly version: string
  readonly fence: FenceKind
  /** Undefined: short runs are written as they are. */
  readonly staging: StagingSize | undefined
  readonly shape: CacheShape
  readonly place: Place
  /** Both as they travel. */
  readonly packed: { readonly shape: PackedShape; readonly place: PackedPlace }
  /** Tokens of which a prefix is a multiple, unless it is the whole prompt. */
  readonly prefixBlock: number
  /** Ask for digests and check them. */
  readonly verify: boolean
  readonly deadlines: Deadlines
  readonly limits: Limits
}

export interface EngineAddress {
  readonly generation: string
  readonly address: Uint8Array
  readonly regions: readonly Uint8Array[]
  /** Descriptor of its staging memory. */
  readonly staging?: Uint8Array | undefined
}

export interface DecodeState {
  readonly self: DecodeSelf
  engine: EngineAddress
  /** Of the staging memory of that engine. */
  bays: Bays
  /** Loads that wait for a bay, in the order in which they get one. */
  readonly bayQueue: Load[]
  /** By bootstrap address. */
  readonly sources: Map<string, Source>
  /** By control endpoint of the prefill rank. */
  readonly links: Map<string, Link>
  readonly requests: Map<number, Request>
  /** Live requests by room and index. */
  readonly rooms: Map<string, Request>
  /** Writers that could not be fenced, and when it is tried again. */
  readonly unfenced: Map<string, number>
  /** How often the access of a prefill incarnation was revoked (fence kind `peer`). */
  readonly fences: Map<string, number>
  /** Highest epoch given to any reserve. Never reset: a prefill process may remember more than its link here. */
  epoch: number
  /** Set while the engine is replaced to get pages out of quarantine. */
  recycle: { phase: 'draining' | 'closing'; deadline: number } | undefined
  /** Why no request can be taken any more. */
  broken: KvxError | undefined
  /** Messages that changed nothing, by reason. */
  readonly dropped: Map<string, number>
}

/** A prefill instance, as its bootstrap describes it. The bootstrap is watched while requests use it. */
export interface Source {
  readonly from: string
  /** Undefined until they are read, and after it has turned out that they are outdated. */
  ranks: readonly SourceRank[] | undefined
  /** By data-parallel rank of prefill: where a request's bytes come from. */
  readonly routes: Map<number, Route>
  /** Why the last attempt to read it failed. */
  down: KvxError | undefined
  /** Live requests. */
  readonly requests: Set<Request>
  /** When the last request began. */
  used: number
}

/** The ranks that send to this one. */
export interface Route {
  /** Prefill's data-parallel rank that they belong to. */
  readonly dp: number
  readonly links: readonly Link[]
}

/** One prefill rank. */
export interface Link {
  readonly endpoint: string
  readonly incarnation: string
  readonly instance: string
  readonly rank: Rank
  /** `lost`: its requests failed; kept while pages wait for its `drained`. */
  status: 'connecting' | 'greeting' | 'ready' | 'lost'
  /** The control connection stands. */
  up: boolean
  heard: number
  pinged: number
  /** Its access is being revoked (fence kind `peer`): it is greeted after that. */
  fencing: boolean
  /** It was lost, and has not said welcome since. */
  doubtful: boolean
  /** Prefill has said that it does not know who speaks on this connection: with the next ping comes another hello. */
  isUnknown: boolean
  /** What it sends to this rank; since its welcome. */
  pairing: Pairing | undefined
  /** Generation of its engine: what a fence names. */
  writer: string | undefined
  /** Bytes of aux that it announced to send at most. */
  auxBytes: number
  readonly legs: Map<number, Leg>
  /** Requests that wait for the welcome. */
  readonly waiting: Set<Request>
}

/** The part of a request that one prefill rank sends. */
export interface Leg {
  readonly request: Request
  readonly link: Link
  epoch: number
  phase: 'idle' | 'reserving' | 'parked' | 'paired' | 'verifying' | 'complete' | 'failed'
  /** When something was last heard of it, or asked. */
  heard: number
  /** When its abort was sent or its failure was told. */
  failedAt: number
  /** Nothing of it can land any more. */
  drained: boolean
  /** Epochs tried because an earlier one was over before it began. */
  tries: number
  /** Tokens, or slots, times layers that have landed, and all that will. */
  landed: number
  expected: number
  /** Prefill said that the room had been sent before, to its end. */
  consumed: boolean
  outcome: MessageOf<'complete'> | undefined
  /** Loads that were asked for and have not ended, by number: a few at most. */
  readonly loads: Map<number, Load>
  /** All loads up to this one have ended, and these as well: scattered, or refused a bay. */
  endedTo: number
  readonly ended: Set<number>
  stagedBytes: number
}

/** What comes through a bay. */
export interface Load {
  readonly leg: Leg
  /** Among those of its leg, from 1. */
  readonly number: number
  readonly bytes: number
  /** queued: so long prefill waits. */
  readonly until: number
  phase: 'queued' | 'granted' | 'scattering'
  bay: Bay | undefined
}

export interface Request {
  readonly id: number
  readonly key: string
  readonly room: bigint
  readonly index: number
  readonly from: string
  readonly tokens: number
  readonly digest: Uint8Array
  /** As its host stated it. */
  readonly dpRank: DpRank
  readonly deadlines: Deadlines
  phase:
    'resolving' | 'routing' | 'open' | 'reserving' | 'accepted' | 'receiving' | 'success' | 'failed'
  /** When the host asked for it. */
  readonly since: number
  /** When it began to look for its prefill ranks: with the call of its host, or once it was known which ones. */
  soughtSince: number
  deadline: number
  /** Until then prefill may say that it is queued there. */
  queueEnd: number
  /** Prefill's data-parallel rank that was published for it. */
  published: number | undefined
  /** The bootstrap service is asked which one is published. */
  asked: boolean
  route: Route | undefined
  legs: Leg[]
  destination: Destination | undefined
  acceptedTold: boolean
  wantedTold: boolean
  transferringTold: boolean
  error: KvxError | undefined
}

export interface Destination {
  prefixTokens: number
  /** By component: pages of what is needed of the prompt, or slots. */
  pages: PageLists | undefined
}

export interface SourceRank {
  readonly endpoint: string
  readonly incarnation: string
  readonly instance: string
  readonly rank: Rank
}

export type DecodeEvent =
  | { type: 'message'; endpoint: string; message: Message }
  | ({ type: 'unreadable'; endpoint: string } & Unreadable)
  /** What was to be said of an epoch could not be put into a message. */
  | { type: 'unsent'; endpoint: string; epoch: number; error: KvxError }
  | { type: 'link.up'; endpoint: string }
  | { type: 'link.down'; endpoint: string; error?: KvxError | undefined }
  /** All ranks of the instance, each time one of them has changed. */
  | { type: 'source.read'; from: string; ranks: readonly SourceRank[] }
  /** An attempt to read it failed; the watch goes on. */
  | { type: 'source.failed'; from: string; error: KvxError }
  /** A rank of prefill has published that it sends a request. */
  | ({ type: 'source.published'; from: string; dp: number } & Sample)
  | {
      type: 'host.receive'
      request: number
      key: string
      room: bigint
      index: number
      from: string
      tokens: number
      digest: Uint8Array
      dpRank: DpRank
      deadlines: Deadlines
    }
  | {
      type: 'host.reserve'
      request: number
      prefixTokens: number
      pages: PageLists | undefined
    }
  | {
      type: 'host.provide'
      request: number
      pages: PageLists
    }
  | { type: 'host.abort'; request: number; reason: unknown }
  | { type: 'verified'; request: number; epoch: number; error: KvxError | undefined }
  | {
      type: 'scattered'
      request: number
      epoch: number
      load: number
      error?: KvxError | undefined
    }
  | PeerGone
  | { type: 'fenced'; writer: string }
  | { type: 'fence.failed'; writer: string }
  | { type: 'engine.recycled'; engine: EngineAddress }
  | { type: 'engine.failed'; error: KvxError }
  | { type: 'tick' }

export type DecodeEffect =
  | { do: 'watchSource'; from: string }
  | { do: 'unwatchSource'; from: string }
  /** Asks which data-parallel rank is published for it; once, until that is known. */
  | ({ do: 'askPublished'; from: string } & Sample)
  | ({ do: 'unaskPublished'; from: string } & Sample)
  | { do: 'connect'; endpoint: string }
  | { do: 'disconnect'; endpoint: string }
  | { do: 'send'; endpoint: string; message: Message }
  | {
      do: 'verify'
      request: number
      epoch: number
      pairing: Pairing
      prompt: Prompt
      /** All destination pages, and slots, of the request. */
      destination: PageLists
      digests: Readonly<Record<string, Uint8Array>>
    }
  /** From the staging memory, from `offset` on. */
  | {
      do: 'scatter'
      request: number
      epoch: number
      load: number
      plan: TransferPlan
      offset: number
    }
  | { do: 'fence'; writer: string }
  | { do: 'recycle' }
  | { do: 'receiver.reached'; request: number }
  | { do: 'receiver.accepted'; request: number; prefixTokens: number }
  | { do: 'receiver.wanted'; request: number }
  /** A part of it has landed. */
  | { do: 'receiver.transferring'; request: number }
  /** A call that was wrong: it has changed nothing. */
  | { do: 'receiver.rejected'; request: number; error: KvxError }
  | { do: 'receiver.done'; request: number; aux: Aux; report: TransferSummary }
  | { do: 'receiver.failed'; request: number; error: KvxError }
  | { do: 'receiver.settled'; request: number }

/** What a part has to tell those above it. */
export type DecodeNews = LinkNews | LegNews

export type LinkNews = { readonly link: Link } & (
  | { happened: 'ready' }
  /** Its requests fail. */
  | { happened: 'lost'; error: KvxError }
)

export type LegNews = { readonly leg: Leg } & (
  | { happened: 'accepted' }
  | { happened: 'wants pages' }
  /** Tokens, or slots, times layers of it so far. */
  | { happened: 'landed'; units: number }
  /** All of it has landed, as prefill says, and that is what was asked for. */
  | { happened: 'sent' }
  | { happened: 'failed'; error: KvxError }
  /** Nothing of it can land any more. */
  | { happened: 'drained' }
  /** What it waits for is in a queue of prefill, which lives. */
  | { happened: 'queued' }
)

/** What a step works with. */
export interface DecodeStep {
  readonly state: DecodeState
  readonly now: number
  readonly out: DecodeEffect[]
  /** Delivered by `step.ts` when the handler of the event has returned. */
  readonly news: DecodeNews[]
}

export function createDecode(self: DecodeSelf, engine: EngineAddress): DecodeState {
  return {
    self,
    engine,
    bays: makeBays(self.staging),
    bayQueue: [],
    sources: new Map(),
    links: new Map(),
    requests: new Map(),
    rooms: new Map(),
    unfenced: new Map(),
    fences: new Map(),
    epoch: 0,
    recycle: undefined,
    broken: undefined,
    dropped: new Map(),
  }
}
