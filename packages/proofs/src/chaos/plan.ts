/** Which faults a run makes, in which order: drawn from the seed. */
import type { Random } from '@kvx/simulator'
import { phases, type Phase } from './phases.ts'

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

/** Packets between the workers are lost for some time; the router reaches both. */
export interface Cut {
  readonly kind: 'cut'
  readonly victim: 'network'
  readonly seconds: number
}

/**
 * Whether decode is started again: at its first request it greets prefill. A decode worker that stays
 * greets a new prefill worker as soon as that has registered, before there is a request to hit.
 */
export const startsDecodeAgain = ({ kind, victim }: Fault): boolean =>
  victim === 'decode' && (kind === 'kill' || kind === 'term' || kind === 'stop, kill')

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
 * Rounds of one fault per phase, `count` faults in all, each possible one once before any comes again.
 * A fault before hello comes right after one that starts decode again: there is no other time for it,
 * so the few rounds for which no such fault is left have none.
 */
export function drawPlan(random: Random, count: number): Fault[][] {
  const rounds: Fault[][] = []
  let left = count
  while (left > 0) {
    const all = random.shuffle(everyFault())
    const early = all.filter(({ aim }) => aim === 'before hello')
    const openings = all.filter((fault) => !early.includes(fault) && startsDecodeAgain(fault))
    const piles = new Map(
      phases
        .slice(1)
        .map((phase) => [
          phase,
          all.filter((fault) => fault.aim === phase && !openings.includes(fault)),
        ]),
    )
    while (left > 0 && [...piles.values()].some((pile) => pile.length > 0)) {
      const opening = openings.pop()
      const others = [...piles]
        .filter(([phase]) => phase !== opening?.aim)
        .flatMap(([, pile]) => pile.splice(0, 1))
      const round = random.shuffle(others)
      const pair = opening === undefined ? [] : [opening, ...early.splice(0, 1)]
      round.splice(random.between(0, round.length), 0, ...pair)
      rounds.push(round.slice(0, left))
      left -= Math.min(left, round.length)
    }
  }
  return rounds
}
