/** What the worlds have in common: one side of the wire with everything in every phase, and what may be said to it. */
import type {
  DecodeEffect,
  DecodeState,
  Message,
  MessageKind,
  MessageOf,
  PrefillEffect,
  PrefillState,
} from '@kvx/core/protocol'

/** A message that would be in order at this moment. */
export type Template = Readonly<Record<string, unknown>>

export interface World {
  readonly name: string
  /** Messages that would be in order just now, from each peer. */
  templates(): readonly Template[]
  /** Time passes: whoever is not fuzzed goes on, and there is something in every phase again. */
  turn(): void
  /** After all has settled and every deadline has passed: what is left in which table, which is nothing. */
  leftovers(): string
}

/** A reducer. */
export interface ProtocolWorld extends World {
  readonly state: PrefillState | DecodeState
  /** Where a message comes from: from whom it names, or not. */
  from(message: Message): string
  /** Whether a message must change nothing because of who sends it: judged by this world's own books. */
  isForeign(from: string, message: Message): boolean
  step(from: string, message: Message): readonly (PrefillEffect | DecodeEffect)[]
}

/** Messages that name the generation of decode's engine. */
type OfGeneration = Exclude<MessageKind, 'ping' | 'pong'>
/** One of them without its envelope. */
export type Said<K extends OfGeneration = OfGeneration> = {
  [Kind in K]: Omit<MessageOf<Kind>, 'v' | 'from' | 'to' | 'gen'>
}[K]

/** The tables that are not empty. */
export function sizes(tables: Readonly<Record<string, { readonly size: number }>>): string {
  return Object.entries(tables)
    .filter(([, table]) => table.size > 0)
    .map(([name, table]) => `${name}: ${String(table.size)}`)
    .join(', ')
}
