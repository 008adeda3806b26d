/** Requests as their hosts see them: one leg on each rank of both sides. */
import type { KvxError } from '@kvx/contract'
import type { Lease } from '@kvx/core'
import type { Process } from '../machine/process.ts'
import type { PromptPages } from '../shape/content.ts'

/** One request of the router. */
export interface Job {
  readonly id: number
  readonly room: bigint
  readonly key: string
  /** Instances. */
  readonly prefill: number
  readonly decode: number
  readonly prompt: number
  readonly tokens: number
  readonly digest: Uint8Array
  /** Tokens that decode holds already, perhaps no whole pages. */
  readonly prefix: number
  /** Slots of its state, where the model has one. */
  readonly slots: number
  /** Decode allocates when prefill asks for pages. */
  readonly late: boolean
  /** Nothing has happened that may make it fail: then it must succeed. */
  clean: boolean
  readonly senders: SendLeg[]
  readonly receivers: ReceiveLeg[]
  /** One of its legs never starts. */
  readonly oneSided: boolean
  /** Faults of the request itself, as bits (shape/faults.ts). */
  mask: number
  /** A manager did not take one of its legs. */
  refused: boolean
}

interface LegBase {
  readonly id: number
  readonly job: Job
  /** The process of its rank. */
  readonly host: Process
  settled: boolean
  /** By component. */
  readonly leases: Map<string, Lease>
  readonly pages: Map<string, PromptPages>
  /** What its host was told when it failed. */
  cause: KvxError | undefined
  /** The caller waits for something until its process has lived so long. */
  dueAt: number
  /** Its host gives it up, unless it has ended. */
  readonly abort: (reason: string) => void
}

export interface SendLeg extends LegBase {
  readonly side: 'prefill'
  phase: 'waiting' | 'reserved' | 'finishing' | 'success' | 'failed'
  admitted: boolean
  /** Writes still to be made, and the state that goes with the end. */
  todo: Chunk[]
  lastState: Record<string, Int32Array>
  /** The host makes a call that may be wrong; how it was answered. */
  attempt: 'none' | 'made' | 'rejected'
  /** By component: the first token that any decode rank needs, as it was told. */
  firstTokens: Readonly<Record<string, number>>
  nextWrite: number
  readonly unanswered: Set<number>
}

/** A write, as the host calls it. */
export interface Chunk {
  readonly tokens: readonly [number, number] | undefined
  readonly pages: Readonly<Record<string, Int32Array>>
  readonly state: Readonly<Record<string, Int32Array>>
  readonly layers: readonly [number, number]
}

/** A reserve that this leg has sent to a prefill process. */
export interface Reserve {
  readonly epoch: number
  readonly leg: ReceiveLeg
  /** Incarnation of prefill. */
  readonly peer: string
  /** It is known at decode that nothing of it can land any more. */
  over: boolean
  /** Prefill has paired it with a leg of its host. */
  paired: boolean
  /** Code and text with which prefill first said that it failed. */
  told: string | undefined
  /** What it was told of this epoch was false: a success would be wrong. */
  falsified: boolean
}

export interface ReceiveLeg extends LegBase {
  readonly side: 'decode'
  /** It is sent by the data-parallel rank that prefill publishes. */
  readonly isPublished: boolean
  phase: 'new' | 'reserving' | 'accepted' | 'success' | 'failed'
  provided: boolean
  wanted: boolean
  readonly reserves: Reserve[]
  /** What was posted into its pages, by incarnation of prefill: source, destination and length of each copy. */
  readonly posted: Map<string, number[]>
  /** The pages were quarantined at the failure; ends that. */
  free: (() => void) | undefined
}

export type Leg = SendLeg | ReceiveLeg

export function hasEnded({ phase }: Leg): boolean {
  return phase === 'success' || phase === 'failed'
}

/** Page lists of some or all of its components, as the protocol names them. */
export function listsOf({ pages }: Leg, which: 'tokens' | 'request' | 'all' = 'all') {
  const lists: Record<string, Int32Array> = {}
  for (const [name, { held, pages: list }] of pages)
    if (which === 'all' || held.component.addressed === which) lists[name] = list
  return lists
}

/** Something has happened that may make the request fail. */
export function spoil(job: Job): void {
  job.clean = false
}
