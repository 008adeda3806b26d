/** Requests as their hosts see them: one leg on each rank of both sides. */
import type { KvxError } from '@kvx/contract'
import type { Lease } from '@kvx/core'
import type { Process } from '../machine/process.ts'
import type { Component } from '../shape/content.ts'

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
  /** Decode allocates when prefill asks for pages. */
  readonly late: boolean
  readonly withState: boolean
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
  leases: Record<Component, Lease | undefined>
  readonly pages: Record<Component, Int32Array>
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
  /** Writes still to be made: pages of the prompt, range of layers. */
  todo: { start: number; pages: number; layers: readonly [number, number] }[]
  nextWrite: number
  readonly unanswered: Set<number>
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
  phase: 'new' | 'reserving' | 'accepted' | 'success' | 'failed'
  provided: boolean
  wanted: boolean
  readonly reserves: Reserve[]
  /** The pages were quarantined at the failure; ends that. */
  free: (() => void) | undefined
}

export type Leg = SendLeg | ReceiveLeg

export function hasEnded({ phase }: Leg): boolean {
  return phase === 'success' || phase === 'failed'
}

/** Something has happened that may make the request fail. */
export function spoil(job: Job): void {
  job.clean = false
}
