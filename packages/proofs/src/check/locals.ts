/**
 * A reducer as an automaton: its states have numbers, and what follows from one and an event is computed once. In every
 * state it is the same moment; when time passes, the state ages.
 */
import { hash } from 'node:crypto'
import type { DecodeEffect, DecodeEvent, DecodeState } from '@kvx/core/protocol'
import type { PrefillEffect, PrefillEvent, PrefillState } from '@kvx/core/protocol'
import { copyOf, timeFields, timeMap } from './copy.ts'
import { deadlines, horizon } from './small.ts'
import { textOf } from './text.ts'
import { violate } from './violation.ts'

/** The moment at which every state is looked at: further from 0 than anything reaches back. */
const now = 10 * horizon

interface Self {
  readonly self: { readonly incarnation: string }
}

export interface Outcome<Effect> {
  readonly to: number
  readonly effects: readonly Effect[]
}

export type Prefills = Locals<PrefillState, PrefillEvent, PrefillEffect>
export type Decodes = Locals<DecodeState, DecodeEvent, DecodeEffect>

export class Locals<State extends Self, Event extends { readonly type: string }, Effect> {
  /** Number 0: no process. */
  readonly #states: (State | undefined)[] = [undefined]
  readonly #numbers = new Map<string, number>()
  readonly #outcomes = [new Map<string, Outcome<Effect>>()]
  readonly #waits: (number | undefined)[] = [Infinity]
  /** By milliseconds. */
  readonly #aged: (Map<number, number> | undefined)[] = []
  readonly #names: (ReadonlySet<string> | undefined)[] = [new Set()]
  readonly #react: (state: State, event: Event, now: number) => Effect[]
  readonly #tick: Event

  constructor(
    react: (state: State, event: Event, now: number) => Effect[],
    tick: Event & { readonly type: 'tick' },
  ) {
    this.#react = react
    this.#tick = tick
  }

  get size(): number {
    return this.#states.length - 1
  }

  /** It must not be changed. */
  at(number: number): State {
    return this.#states[number]!
  }

  numberOf(state: State): number {
    const text = hash('sha1', state.self.incarnation + textOf(state, now))
    const known = this.#numbers.get(text)
    if (known !== undefined) return known
    const number = this.#states.push(state) - 1
    this.#numbers.set(text, number)
    this.#outcomes.push(new Map())
    return number
  }

  /** @param key tells the event apart from others */
  step(number: number, event: Event, key: string): Outcome<Effect> {
    const outcomes = this.#outcomes[number]!
    const known = outcomes.get(key)
    if (known) return known
    const state = copyOf(this.at(number))
    let effects: Effect[]
    try {
      effects = this.#react(state, event, now)
    } catch (cause) {
      violate('the reducer threw', String(cause instanceof Error ? cause.stack : cause))
    }
    const outcome = { to: this.numberOf(state), effects }
    outcomes.set(key, outcome)
    return outcome
  }

  /** A tick changes something. */
  isDue(number: number): boolean {
    if (number === 0) return false
    const { to, effects } = this.step(number, this.#tick, 'tick')
    return to !== number || effects.length > 0
  }

  aged(number: number, ms: number): number {
    if (number === 0) return 0
    const aged = (this.#aged[number] ??= new Map<number, number>())
    let found = aged.get(ms)
    if (found === undefined) {
      found = this.numberOf(copyOf(this.at(number), ms))
      aged.set(ms, found)
    }
    return found
  }

  /** Milliseconds until a tick changes something, if nothing else happens. */
  wait(number: number): number {
    return (this.#waits[number] ??= this.#findWait(number))
  }

  #findWait(number: number): number {
    const waits = [...candidates(this.at(number))].filter((ms) => ms > 0).sort((a, b) => a - b)
    return waits.find((ms) => this.isDue(this.aged(number, ms))) ?? Infinity
  }

  /** Incarnations, generations and connections of which it knows. */
  names(number: number): ReadonlySet<string> {
    return (this.#names[number] ??= namesIn(
      this.at(number).self.incarnation + textOf(this.at(number), now),
    ))
  }
}

export function namesIn(text: string): ReadonlySet<string> {
  return new Set(text.match(/\b[pdc]\d+(?:[ew]\d+)?\b/g) ?? [])
}

/** How long it may be until a moment of a state matters. */
function candidates(state: object): Set<number> {
  const found = new Set<number>()
  const seen = new Set<object>()
  const { ping, drain, linger, peerSilent } = deadlines
  const after: Readonly<Record<string, readonly number[]>> = {
    heard: [peerSilent + 1, peerSilent / 2],
    pinged: [ping],
    failedAt: [drain],
    used: [linger],
  }
  const walk = (value: unknown): void => {
    if (typeof value !== 'object' || value === null || seen.has(value)) return
    seen.add(value)
    if (value instanceof Map) for (const inner of value.values()) walk(inner)
    else if (value instanceof Set) for (const inner of value) walk(inner)
    else if (!ArrayBuffer.isView(value))
      for (const [name, inner] of Object.entries(value)) {
        if (timeFields.has(name) && typeof inner === 'number')
          for (const ms of after[name] ?? [0]) found.add(inner + ms - now)
        else if (name === timeMap)
          for (const due of (inner as Map<string, number>).values()) found.add(due - now)
        else if (name !== 'self') walk(inner)
      }
  }
  walk(state)
  return found
}
