/** What a world consists of beside the reducers: plain data that is replaced, never changed. */
import type { Message } from '@kvx/core/protocol'
import type { Column } from './cells.ts'

export type Side = 'prefill' | 'decode'

/** The two processes, by the names that messages bear, and what may still go wrong. */
export interface Cast {
  readonly prefill: Actor
  readonly decode: Actor
  readonly faultsLeft: number
  /** Of the coverage table: those of the faults that have happened, where they are told apart. */
  readonly columns: readonly Column[]
}

/** `p1` or `d1`; the generation of its engine is `p1w1` or `d1e1`. */
export interface Actor {
  readonly incarnation: string
  readonly generation: string
  readonly isAlive: boolean
  readonly isFrozen: boolean
}

/** Control connections, and decode's watch of the bootstrap service. */
export interface Net {
  /** Decode wants a connection. */
  readonly isWanted: boolean
  /** The one that it uses. */
  readonly current: string | undefined
  readonly wires: readonly Wire[]
  /** What a repeating transport says again on the next connection. */
  readonly again: { readonly up: readonly Message[]; readonly down: readonly Message[] }
  readonly watch: Watch | undefined
}

export interface Wire {
  readonly id: string
  readonly prefill: string
  readonly decode: string
  /** Messages on their way. */
  readonly up: readonly Message[]
  readonly down: readonly Message[]
  /** Of each direction the last message about an epoch, where the transport repeats. */
  readonly last: { readonly up: Message | undefined; readonly down: Message | undefined }
  readonly isBroken: boolean
  /** Prefill has heard something on it. */
  readonly isHeard: boolean
  readonly server: 'open' | 'closed'
  /** `noticed`: decode knows of its end; what had come before may still be read. */
  readonly client: 'open' | 'noticed' | 'closed'
}

export interface Watch {
  /** The answer on its way: an incarnation, or `none`. */
  readonly answer: string | undefined
  /** What was told last. */
  readonly told: string | undefined
}

export interface Engines {
  /** Of prefill's engine: attempts and open links. */
  readonly links: readonly EngineLink[]
  /** Not settled. */
  readonly writes: readonly Write[]
  /** Writers that decode wants fenced. */
  readonly fences: readonly string[]
  /** Writers that have connected to decode's engine, and those that never may. */
  readonly connected: readonly string[]
  readonly barred: readonly string[]
  readonly isRecycling: { readonly prefill: boolean; readonly decode: boolean }
  /** Digests that prefill computes, and layers that decode compares with them. */
  readonly digesting: readonly {
    readonly sender: number
    readonly epoch: number
    readonly peer: string
  }[]
  readonly comparing: readonly { readonly request: number; readonly epoch: number }[]
  /** Generations of whose end an engine may tell a side. */
  readonly gone: readonly { readonly to: Side; readonly generation: string }[]
}

/** What a writer can reach. */
interface Reach {
  /** Incarnation and generation of the target, and generation of the writer. */
  readonly peer: string
  readonly generation: string
  readonly writer: string
  /** A fence has been asked for that shuts it out. */
  readonly isDoomed: boolean
  readonly isRevoked: boolean
}

export interface EngineLink extends Reach {
  readonly state: 'opening' | 'open' | 'given up'
}

export interface Write extends Reach {
  readonly piece: number
  /** Layers of pages at the target. */
  readonly cells: readonly number[]
  /** Numbers of the requests whose pages it reads and fills; −1: of none. */
  readonly reader: number
  readonly owner: number
  readonly epoch: number
  readonly told: 'no' | 'done' | 'failed'
  readonly isCancelled: boolean
  readonly isLost: boolean
  /** It settles late, or never. */
  readonly settles: 'soon' | 'late' | 'never'
  /** Its engine was closed, and what it had sent may land. */
  readonly isAbandoned: boolean
}

/** What hosts know, and what is true of their requests. */
export interface Books {
  readonly jobs: readonly Job[]
  /** That decode's process has sent. */
  readonly reserves: readonly Reserve[]
  readonly lastEpoch: number
  /** Of each decode process what prefill's has heard. */
  readonly heard: readonly { readonly peer: string; readonly gen: string; readonly epoch: number }[]
}

/** One request of the router. */
export interface Job {
  /** No fault has happened since it began of which it may fail. */
  readonly isClean: boolean
  /** By a host, where that is told apart. */
  readonly isAborted?: true
  readonly send: SendLeg
  readonly receive: ReceiveLeg
}

export interface SendLeg {
  readonly phase:
    'none' | 'waiting' | 'reserved' | 'finishing' | 'success' | 'failed' | 'settled' | 'gone'
  readonly end: 'success' | 'failed' | undefined
  /** Calls of its host: a bit for each. */
  readonly written: number
  /** Moments until its turn. */
  readonly queued?: number
  readonly pages: readonly number[]
}

export interface ReceiveLeg {
  readonly phase:
    'none' | 'new' | 'reserving' | 'accepted' | 'success' | 'failed' | 'settled' | 'gone'
  readonly end: 'success' | 'failed' | undefined
  /** Code with which it failed. */
  readonly cause: string | undefined
  readonly isWanted: boolean
  readonly isProvided: boolean
  /** Moments until its turn. */
  readonly queued?: number
  readonly pages: readonly number[]
  /** Its bytes are not those that were sent. */
  readonly isDamaged?: true
  /** Layers of its pages that have landed. */
  readonly landed: readonly number[]
}

export interface Reserve {
  readonly epoch: number
  readonly job: number
  /** Incarnation of prefill. */
  readonly peer: string
  /** Decode knows that nothing of it can land any more. */
  readonly isOver: boolean
  /** What prefill first said why it failed. */
  readonly told: string | undefined
}

/** The last number of a tuple is that of the part. */
export interface World {
  readonly prefill: number
  readonly decode: number
  readonly net: Net
  readonly engines: Engines
  readonly books: Books
  readonly cast: Cast
}
