/** Which faults a run makes, in which order: drawn from the seed. */
import { phases, type Phase } from './phases.ts'
import type { Random } from './random.ts'

export const kinds = [
  'kill',
  'stop, thaw early',
  'stop, thaw late',
  'stop, kill',
  'term',
  'abort',
] as const
export type Kind = (typeof kinds)[number]
export type Victim = 'prefill' | 'decode' | 'router' | 'client'

export interface Fault {
  readonly kind: Kind
  readonly victim: Victim
  /** In which phase it is to hit a request; what counts is the phase in which it did. */
  readonly aim: Phase
}

/** Whether the two workers have to greet each other anew afterwards. */
export const greetsAnew = ({ kind, victim }: Fault): boolean =>
  (victim === 'prefill' || victim === 'decode') &&
  (kind === 'kill' || kind === 'term' || kind === 'stop, kill')

/** Every kind at every victim in every phase, once; aborts twice. */
export function everyFault(): Fault[] {
  return phases.flatMap((aim) =>
    kinds.flatMap((kind): Fault[] => {
      const victims: readonly Victim[] =
        kind === 'abort' ? ['client', 'client'] : ['prefill', 'decode', 'router']
      return victims.map((victim) => ({ kind, victim, aim }))
    }),
  )
}

/**
 * Rounds of one fault per phase, `count` faults in all. A fault before hello comes right after one
 * that makes the workers greet each other anew: there is no other time for it, so a round without
 * such a fault has none.
 */
export function drawPlan(random: Random, count: number): Fault[][] {
  const rounds: Fault[][] = []
  let left = count
  while (left > 0) {
    const piles = phases.map((phase) =>
      random.shuffled(everyFault().filter(({ aim }) => aim === phase)),
    )
    const [early = [], ...others] = piles
    while (left > 0 && others.some((pile) => pile.length > 0)) {
      const round = random.shuffled(others.flatMap((pile) => pile.splice(0, 1)))
      const opening = round.findIndex(greetsAnew)
      if (opening >= 0) round.splice(opening + 1, 0, ...early.splice(0, 1))
      rounds.push(round.slice(0, left))
      left -= Math.min(left, round.length)
    }
  }
  return rounds
}
