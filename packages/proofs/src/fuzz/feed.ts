/** What becomes of a frame in a world, and whether it was right. */
import { isKvxError, type ErrorCode } from '@kvx/contract'
import {
  parseMessage,
  type DecodeEffect,
  type Message,
  type MessageOf,
  type PrefillEffect,
} from '@kvx/core/protocol'
import { decodeFrame } from '@kvx/core/wire'
import { canonical } from './canonical.ts'
import type { FrameRandom } from './random.ts'
import { overTheWire } from './wire.ts'
import { BootstrapWorld } from './worlds/bootstrap.ts'
import type { ProtocolWorld, Template } from './worlds/world.ts'

const counters = new Set(['dropped'])
/** What any message of a known sender moves: the watermark of its epochs, and when it was heard. */
const ownTraces = /\b(watermark|heard|news):[^,]*,/g

/** What is dropped because of who says it, of whom, or to whom. */
const authentication = /incarnation|generation|hello|sender/
/** Refusals that concern the request of both legs: they end it. */
const endsRequest: ReadonlySet<ErrorCode> = new Set<ErrorCode>(['ERR_KVX_PROMPT_MISMATCH'])

type Effect = PrefillEffect | DecodeEffect
type Outcome = 'taken' | 'dropped' | 'hello refused' | 'reserve refused'

export class Feeder {
  /** How many frames got how far. */
  readonly counts: Record<string, number> = {}
  readonly #random: FrameRandom
  readonly #everyHash: number

  /** @param everyHash the state is compared around every n-th refused message */
  constructor(random: FrameRandom, everyHash: number) {
    this.#random = random
    this.#everyHash = everyHash
  }

  /**
   * Feeds all messages of a frame, up to the first that is none.
   * @throws Error when something else comes of it than an effect or a refusal, or when a refusal has changed anything
   */
  feed(world: ProtocolWorld | BootstrapWorld, frame: Uint8Array): void {
    const messages = decodeFrame(frame)
    for (;;) {
      const next = refused(() => messages.next(), ['ERR_KVX_PROTOCOL'])
      if (next?.done) return
      this.#add(`${world.name}: ${next ? this.#feed(world, next.value) : 'refused by the codec'}`)
      if (next === undefined) return
    }
  }

  #add(name: string): void {
    this.counts[name] = (this.counts[name] ?? 0) + 1
  }

  #feed(world: ProtocolWorld | BootstrapWorld, message: Template): string {
    const compares = this.#everyHash === 1 || this.#random.below(this.#everyHash) === 0
    if (world instanceof BootstrapWorld) return this.#ask(world, message, compares)
    const parsed = refused(
      () => parseMessage(message),
      ['ERR_KVX_PROTOCOL', 'ERR_KVX_VERSION_MISMATCH'],
    )
    return parsed ? this.#step(world, parsed, compares) : 'refused by the schema'
  }

  #ask(world: BootstrapWorld, message: Template, compares: boolean): string {
    const before = compares ? canonical(world.state, counters) : ''
    if (world.receive(message) === 'taken') return 'taken'
    if (compares) {
      this.#add('compared')
      if (canonical(world.state, counters) !== before)
        throw new Error('a refused request changed the table')
    }
    return 'refused by schema or table'
  }

  #step(world: ProtocolWorld, message: Message, compares: boolean): Outcome {
    const { state } = world
    const from = world.from(message)
    const before = compares ? canonical(state, counters) : ''
    const dropped = new Map(state.dropped)
    const isForeign = world.isForeign(from, message)
    const effects = world.step(from, message)
    const reasons = [...state.dropped]
      .filter(([reason, count]) => dropped.get(reason) !== count)
      .map(([reason]) => reason)
    const outcome = outcomeOf(effects, reasons.length > 0, message)
    if (!compares) return outcome
    for (const effect of effects)
      if (effect.do === 'send') parseMessage(overTheWire(effect.message))
    if (outcome === 'taken' && !isForeign) return outcome
    this.#add('compared')
    const isStrict =
      isForeign ||
      outcome === 'hello refused' ||
      reasons.some((reason) => authentication.test(reason))
    const seen = (text: string) => (isStrict ? text : text.replaceAll(ownTraces, ''))
    const [was, is] = [before, canonical(state, counters)].map(seen) as [string, string]
    if (is === was) return outcome
    throw new Error(
      `${message.k}, ${outcome} (${reasons.join(', ')}), changed the state:\n${difference(was, is)}`,
    )
  }
}

/** What `work` answers, or undefined when it refuses in a way that is allowed. */
function refused<T>(work: () => T, codes: readonly ErrorCode[]): T | undefined {
  try {
    return work()
  } catch (error) {
    if (isKvxError(error) && codes.includes(error.code)) return undefined
    throw error
  }
}

function outcomeOf(effects: readonly Effect[], isDropped: boolean, message: Message): Outcome {
  const [refusal] = effects.flatMap((effect): MessageOf<'refuse'>[] =>
    effect.do === 'send' && effect.message.k === 'refuse' ? [effect.message] : [],
  )
  if (refusal && refusal.ep === undefined) return 'hello refused'
  if (refusal && message.k === 'reserve' && !endsRequest.has(refusal.code)) return 'reserve refused'
  return isDropped ? 'dropped' : 'taken'
}

function difference(before: string, after: string): string {
  let at = 0
  while (before[at] === after[at]) at++
  const around = (text: string) => text.slice(Math.max(0, at - 200), at + 100)
  return `${around(before)}\n→\n${around(after)}`
}
