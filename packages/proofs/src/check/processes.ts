/** Processes end, start again as others, and stand still; and time passes. */
import { createDecode, createPrefill } from '@kvx/core/protocol'
import * as engines from './engines.ts'
import * as hosts from './hosts.ts'
import { freshName } from './names.ts'
import * as network from './network.ts'
import type { Side } from './parts.ts'
import { decodeSelf, engineAddress, prefillSelf } from './small.ts'
import type { Move, Turn } from './turn.ts'

const sides = ['prefill', 'decode'] as const

export function start(turn: Turn, side: Side): void {
  const { small, prefills, decodes } = turn.ground
  const incarnation = freshName(turn, side === 'prefill' ? 'p' : 'd')
  const generation = `${incarnation}${side === 'prefill' ? 'w1' : 'e1'}`
  turn.setActor(side, { incarnation, generation, isAlive: true, isFrozen: false })
  if (side === 'prefill')
    turn.prefill = prefills.numberOf(createPrefill(prefillSelf(small, incarnation), generation))
  else
    turn.decode = decodes.numberOf(
      createDecode(decodeSelf(small, incarnation), engineAddress(small, generation)),
    )
}

function crash(turn: Turn, side: Side): void {
  engines.onExit(turn, side)
  network.onExit(turn, side)
  hosts.onExit(turn, side)
  turn[side] = 0
  turn.setActor(side, { isAlive: false, isFrozen: false })
}

/** Whoever stands still goes on, and whoever is dead comes back, some time later. */
export function recoveries(turn: Turn, moves: Move[]): void {
  for (const side of sides) {
    const { isAlive, isFrozen } = turn.cast[side]
    if (isFrozen)
      moves.push({
        label: () => `${side} is thawed`,
        canWait: true,
        run: (t) => {
          t.setActor(side, { isFrozen: false })
        },
      })
    if (!isAlive && !turn.spec.staysDead)
      moves.push({
        label: () => `${side} starts again`,
        canWait: true,
        run: (t) => {
          start(t, side)
        },
      })
  }
}

export function ticks(turn: Turn, moves: Move[]): void {
  const { prefills, decodes } = turn.ground
  if (turn.runs('prefill') && prefills.isDue(turn.prefill))
    moves.push({
      label: () => 'prefill ticks',
      run: (t) => {
        t.stepPrefill({ type: 'tick' }, 'tick')
      },
    })
  if (turn.runs('decode') && decodes.isDue(turn.decode))
    moves.push({
      label: () => 'decode ticks',
      run: (t) => {
        t.stepDecode({ type: 'tick' }, 'tick')
      },
    })
}

/** To the next moment at which a process does something of itself. */
export function passing(turn: Turn): Move[] {
  const { prefills, decodes } = turn.ground
  const wait = Math.min(
    turn.runs('prefill') ? prefills.wait(turn.prefill) : Infinity,
    turn.runs('decode') ? decodes.wait(turn.decode) : Infinity,
    hosts.turnIn(turn),
  )
  if (wait === Infinity) return []
  return [
    {
      label: () => `${String(wait)} ms pass`,
      run: (t) => {
        t.prefill = prefills.aged(t.prefill, wait)
        t.decode = decodes.aged(t.decode, wait)
        hosts.passTurns(t, wait)
      },
    },
  ]
}

export function processFaults(turn: Turn, moves: Move[]): void {
  const { faults } = turn.spec
  for (const side of sides) {
    if (turn.cast[side].isAlive && faults.includes(`crash of ${side}`))
      moves.push({
        label: () => `FAULT ${side} dies`,
        isFault: true,
        column: 'restart',
        run: (t) => {
          crash(t, side)
        },
      })
    if (turn.runs(side) && faults.includes(`freeze of ${side}`))
      moves.push({
        label: () => `FAULT ${side} stands still`,
        isFault: true,
        column: 'freeze',
        run: (t) => {
          t.setActor(side, { isFrozen: true })
        },
      })
  }
}
