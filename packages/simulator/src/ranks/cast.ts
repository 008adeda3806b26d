/** Who takes part: the slots of all instances, and their processes by the names that messages bear. */
import { unarmed, type Side } from '../machine/process.ts'
import { layMemory } from '../shape/memory.ts'
import type { Instance, Shape } from '../shape/shape.ts'
import type { DecodeRank, DecodeSlot } from './decode.ts'
import type { PrefillRank, PrefillSlot } from './prefill.ts'

export type AnyRank = PrefillRank | DecodeRank
export type AnySlot = PrefillSlot | DecodeSlot

export class Cast {
  readonly prefills: readonly PrefillSlot[]
  readonly decodes: readonly DecodeSlot[]
  /** Prefill first. */
  readonly slots: readonly AnySlot[]
  readonly #decodes = new Map<string, DecodeRank>()
  readonly #writers = new Map<string, PrefillRank>()

  /** The slots have no processes yet. */
  constructor({ model, prefills, decodes }: Shape) {
    const slot = (
      side: Side,
      { instance, i }: { instance: number; i: number },
      rank: PrefillSlot['rank'],
      { keeping }: Instance,
    ) => ({
      name: `${side === 'prefill' ? 'P' : 'D'}${instance}.${i}`,
      side,
      instance,
      rank,
      memory: layMemory(model.cache, rank, keeping),
      starts: 0,
      armed: unarmed(),
      mask: 0,
      slowness: 1,
      hitAt: -1,
    })
    this.prefills = prefills.flatMap((of, instance) =>
      of.ranks.map((rank, i) => {
        const endpoint = `tcp://prefill-${instance}-${i}:1`
        return { ...slot('prefill', { instance, i }, rank, of), endpoint } as PrefillSlot
      }),
    )
    this.decodes = decodes.flatMap((of, instance) =>
      of.ranks.map((rank, i) => slot('decode', { instance, i }, rank, of) as DecodeSlot),
    )
    this.slots = [...this.prefills, ...this.decodes]
  }

  /** A decode process is known by its incarnation from now on, also after its end. */
  addDecode(rank: DecodeRank): void {
    this.#decodes.set(rank.incarnation, rank)
  }

  /** A prefill process is known by the generation of its engine from now on, also after its end. */
  addWriter(rank: PrefillRank): void {
    this.#writers.set(rank.generation, rank)
  }

  decodeOf(incarnation: string): DecodeRank | undefined {
    return this.#decodes.get(incarnation)
  }

  writerOf(generation: string): PrefillRank | undefined {
    return this.#writers.get(generation)
  }
}

export function isPrefill(slot: AnySlot): slot is PrefillSlot {
  return slot.side === 'prefill'
}
