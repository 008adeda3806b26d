/** Invariant 6: messages of another incarnation, generation or finished epoch change nothing. */
import type { DecodeEffect, Message, PrefillEffect } from '@kvx/core/protocol'
import { violate } from '../machine/violation.ts'
import { describe } from '../machine/words.ts'
import type { Wire } from '../network/wire.ts'
import type { DecodeRank } from '../ranks/decode.ts'
import type { PrefillRank } from '../ranks/prefill.ts'

export class Identity {
  /** Generation of the last hello, by prefill process and decode incarnation. */
  readonly #greeted = new Map<string, string>()
  /** Highest epoch that a prefill process has heard of, by decode incarnation. */
  readonly #heardOf = new Map<string, number>()

  /** Asked once for each message, in the order in which they arrive. */
  isForeignAtPrefill(prefill: PrefillRank, message: Message): boolean {
    const key = `${prefill.incarnation}/${message.from}`
    if (message.k === 'hello') {
      if (message.to === prefill.incarnation) this.#greeted.set(key, message.gen)
      this.#heardOf.set(key, Math.max(this.#heardOf.get(key) ?? 0, message.epoch))
      return message.to !== prefill.incarnation
    }
    if (message.to !== prefill.incarnation) return true
    if (!('ep' in message) || message.ep === undefined) return false
    if (message.gen !== this.#greeted.get(key)) return true
    const heardOf = this.#heardOf.get(key) ?? 0
    this.#heardOf.set(key, Math.max(heardOf, message.ep))
    return message.k === 'reserve' && message.ep <= heardOf
  }
}

export function isForeignAtDecode(decode: DecodeRank, wire: Wire, message: Message): boolean {
  if (message.to !== decode.incarnation || message.from !== wire.prefill.incarnation) return true
  return 'gen' in message && message.gen !== decode.current
}

const answers: readonly string[] = ['refuse', 'drained', 'status', 'ready']

export function mustChangeNothing(
  name: string,
  message: Message,
  effects: readonly (PrefillEffect | DecodeEffect)[],
): void {
  for (const effect of effects) {
    if (effect.do === 'send' && answers.includes(effect.message.k)) continue
    violate(
      'foreign message acted upon',
      `${name} answered ${describe(message)}, which is not for it, with ${effect.do}`,
    )
  }
}
