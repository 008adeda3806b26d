/** A schedule, played again step by step: what each side says on the way, and how it ends. */
import { usageError } from '../command.ts'
import { words } from './hear.ts'
import { movesOf, perform } from './moves.ts'
import type { Message } from '@kvx/core/protocol'
import type { World } from './parts.ts'
import { performDecode, performPrefill } from './perform.ts'
import { unrest } from './rest.ts'
import type { Spec } from './spec.ts'
import { Turn, type Ground } from './turn.ts'
import { Violation } from './violation.ts'
import { Universe } from './world.ts'

/** Moves without a fault that are played after the schedule, to see whether everything ends. */
const afterwards = 400

/**
 * @returns whether something was wrong, as when it was found
 * @throws Error for a label that is none of what may happen then
 */
export function replay(
  spec: Spec,
  schedule: readonly string[],
  say: (line: string) => void,
): boolean {
  const universe = new Universe(spec)
  const ground = told(universe.ground, say)
  let world: World = universe.beginning()
  const play = (label?: string): void => {
    const turn = new Turn(ground, world)
    const moves = movesOf(turn)
    const move = label === undefined ? moves[0] : moves.find((one) => one.label() === label)
    if (!move)
      throw usageError(
        `'${String(label)}' cannot happen here, but:\n  ${moves.map((one) => one.label()).join('\n  ')}`,
      )
    say(move.label())
    perform(turn, move)
    world = turn
  }
  try {
    for (const label of schedule) play(label)
    say('-- without another fault:')
    for (let i = 0; i < afterwards; i++) {
      const left = unrest(new Turn(ground, world))
      if (left === undefined) {
        say('everything has ended')
        return false
      }
      if (movesOf(new Turn(ground, world)).length === 0) break
      play()
    }
  } catch (cause) {
    if (!(cause instanceof Violation)) throw cause
    say(`${cause.check}: ${cause.message}`)
    return true
  }
  say(`not ended: ${unrest(new Turn(ground, world)) ?? ''}`)
  return true
}

/** Tells what is ordered. */
function told(ground: Ground, say: (line: string) => void): Ground {
  const tell = (side: string, effect: { readonly do: string; readonly message?: unknown }) => {
    say(
      `    ${side}: ${effect.do}${effect.do === 'send' ? ` ${words(effect.message as Message)}` : ''}`,
    )
  }
  return {
    ...ground,
    performPrefill: (turn, effect) => {
      tell('prefill', effect)
      performPrefill(turn, effect)
    },
    performDecode: (turn, effect) => {
      tell('decode', effect)
      performDecode(turn, effect)
    },
  }
}
