/** The command line. */
import { parseArgs } from 'node:util'
import { availableParallelism } from 'node:os'
import type { FenceKind } from '@kvx/contract'
import type { Filter } from './job.ts'
import { fences, modes, type Mode } from '../shape/shape.ts'

export const help = `Runs the kvx protocol through random schedules of faults, in a simulated world.

  npm run sim -- [options]

  --schedules N    how many schedules (default 1000)
  --from S         first seed (default 1; 'random' draws one)
  --seed S         replay one seed: its trace, and if it fails, a shrunk schedule
  --aimed          change schedules that come close to seldom-hit cells of the coverage table, and run them again
  --actions FILE   replay the seed with the actions in this file instead of its own
  --mode MODE      only ${modes.join(' or ')} (default: drawn by the seed)
  --fence KIND     only fence kind ${fences.join(', ')} (default: drawn by the seed)
  --jobs N         processes (default: one per core)
  --core FOLDER    run against another build of @kvx/core: a folder like packages/core/dist
  --table          print the coverage table (from 100,000 schedules on it is printed anyway)
  --json           print everything as JSON
  --help

A violation prints its seed; the same seed with the same --mode and --fence replays it exactly. Of an aimed schedule
it prints the actions as well.
Exit code: 0 nothing found, 1 a violation or an unreachable cell reached, 2 bad options.`

export interface Args {
  readonly schedules: number
  readonly from: number
  readonly seed: number | undefined
  readonly filter: Filter
  readonly aimed: boolean
  /** File with the actions of an aimed schedule. */
  readonly actions: string | undefined
  readonly jobs: number
  readonly core: string | undefined
  readonly table: boolean
  readonly json: boolean
  readonly help: boolean
}

/** @throws Error whose message a person can act on */
export function readArgs(argv: readonly string[]): Args {
  const { values } = parseArgs({
    args: [...argv],
    options: {
      schedules: { type: 'string' },
      from: { type: 'string' },
      seed: { type: 'string' },
      mode: { type: 'string' },
      fence: { type: 'string' },
      aimed: { type: 'boolean' },
      actions: { type: 'string' },
      jobs: { type: 'string' },
      core: { type: 'string' },
      table: { type: 'boolean' },
      json: { type: 'boolean' },
      help: { type: 'boolean' },
    },
  })
  const mode = oneOf('mode', values.mode, modes)
  const fence = oneOf('fence', values.fence, fences)
  const schedules = whole('schedules', values.schedules, 1, 2 ** 31)
  const drawn = Math.floor(Math.random() * 2 ** 31)
  return {
    schedules: schedules ?? 1_000,
    from: values.from === 'random' ? drawn : (whole('from', values.from, 0, 2 ** 31) ?? 1),
    seed: whole('seed', values.seed, 0, 2 ** 32 - 1),
    filter: { ...(mode ? { mode } : {}), ...(fence ? { fence } : {}) },
    aimed: values.aimed === true,
    actions: values.actions,
    jobs: whole('jobs', values.jobs, 1, 256) ?? availableParallelism(),
    core: values.core,
    table: values.table === true || (schedules ?? 0) >= 100_000,
    json: values.json === true,
    help: values.help === true,
  }
}

/** The command that shows a seed again. */
export function replay(seed: number, { mode, fence }: { mode?: Mode; fence?: FenceKind }): string {
  return `npm run sim -- --seed ${seed}${mode ? ` --mode ${mode}` : ''}${fence ? ` --fence ${fence}` : ''}`
}

function whole(
  name: string,
  text: string | undefined,
  low: number,
  high: number,
): number | undefined {
  if (text === undefined) return undefined
  const value = Number(text)
  if (text.trim() === '' || !Number.isInteger(value) || value < low || value > high)
    throw new Error(`--${name} must be a whole number from ${low} to ${high}, not '${text}'.`)
  return value
}

function oneOf<T extends string>(
  name: string,
  text: string | undefined,
  names: readonly T[],
): T | undefined {
  if (text === undefined) return undefined
  const found = names.find((each) => each === text)
  if (found === undefined)
    throw new Error(`--${name} must be one of ${names.join(', ')}, not '${text}'.`)
  return found
}
