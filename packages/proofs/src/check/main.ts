#!/usr/bin/env node
/** `npm run check`. */
import { readFileSync, writeFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { systemReason } from '@kvx/contract'
import { exitCode, readFlags, usageError, whole } from '../command.ts'
import { apart } from './apart.ts'
import { wrongRows } from './cells.ts'
import { checkMutants } from './mutants.ts'
import { headline, lineOf, violationOf } from './report.ts'
import { replay } from './replay.ts'
import { wide, worlds } from './worlds.ts'

const help = `Explores small worlds of the protocol exhaustively: every order of messages, calls, engine events and faults, up to so
many faults. Prints one line for each world; of a violation the shortest schedule that leads to it.

  npm run check -- [options]

  --world NAME     only this world (--list names them)
  --faults N       as many faults at most, not as many as the world has by itself
  --memory MIB     of one world; beyond it the world counts as not exhausted (default 7000)
  --states N       states of one world, likewise (default 20000000)
  --jobs N         worlds at the same time, each in a process of its own (default: as many as there are cores)
  --walks N        only so many schedules of each world, drawn at random: also of worlds too large for all of them (wide-…)
  --from S         seed of the first of them (default 1)
  --cells FILE     write there which cells of the simulator's coverage table were come to
  --save FILE      write the schedule of a violation
  --replay FILE    play a saved schedule in --world, and tell what each side says
  --mutants        look for the defects of npm run mutants instead, each in one world after another
  --only TEXT      of the mutants those with this in their name
  --list           names of the worlds, and what may go wrong in them
  --help

Exit code: 0 nothing was found and all was exhausted, 1 something was found, or a bound was reached, 2 wrong flags.`

async function main(): Promise<number> {
  const flags = readFlags({
    world: { type: 'string' },
    faults: { type: 'string' },
    memory: { type: 'string', default: '7000' },
    states: { type: 'string', default: '20000000' },
    jobs: { type: 'string', default: String(availableParallelism()) },
    walks: { type: 'string' },
    from: { type: 'string', default: '1' },
    cells: { type: 'string' },
    save: { type: 'string' },
    replay: { type: 'string' },
    mutants: { type: 'boolean', default: false },
    only: { type: 'string', default: '' },
    list: { type: 'boolean', default: false },
  })
  const print = (text: string) => process.stdout.write(`${text}\n`)
  if (flags.help) {
    print(help)
    return 0
  }
  const memory = whole('memory', flags.memory, { least: 100 }) * 1024 ** 2
  const states = whole('states', flags.states, { least: 1 })
  const jobs = whole('jobs', flags.jobs, { least: 1 })
  const walks =
    flags.walks === undefined
      ? undefined
      : { count: whole('walks', flags.walks, { least: 1 }), from: whole('from', flags.from) }
  const most = flags.faults === undefined ? undefined : whole('faults', flags.faults)
  if (flags.mutants) return (await checkMutants(flags.only, print)) ? 0 : 1
  const chosen = [...worlds, ...(walks || flags.world !== undefined ? wide : [])]
    .filter(({ name }) => flags.world === undefined || name === flags.world)
    .map((spec) => ({
      ...spec,
      most: most ?? spec.most,
      tellsFaults: flags.cells !== undefined,
    }))
  if (chosen.length === 0)
    throw usageError(`There is no world '${flags.world ?? ''}'; --list names those that there are.`)
  if (flags.list) {
    for (const { name, fence, most: count, faults } of chosen)
      print(`${name.padEnd(14)} fence ${fence}, up to ${String(count)} of: ${faults.join(', ')}`)
    return 0
  }
  if (flags.replay !== undefined) {
    const [spec, ...others] = chosen
    if (!spec || others.length > 0) throw usageError('--replay needs the --world of the schedule.')
    return replay(spec, readSchedule(flags.replay), print) ? 1 : 0
  }
  print(headline)
  const wrong: string[] = []
  const cells = new Set<string>()
  await apart(chosen, { memory, states, walks }, jobs, (explored) => {
    print(lineOf(explored))
    for (const cell of explored.rows.cells) cells.add(cell)
    const rows = wrongRows(explored.rows)
    for (const row of rows) print(row)
    const isBounded = explored.bound !== undefined && explored.bound !== 'walks'
    if (isBounded || explored.found || rows.length > 0) wrong.push(explored.world)
    if (!explored.found) return
    print(violationOf(explored))
    if (flags.save !== undefined)
      writeFileSync(flags.save, `${explored.found.schedule.join('\n')}\n`)
  })
  if (flags.cells !== undefined) writeFileSync(flags.cells, `${[...cells].sort().join('\n')}\n`)
  return wrong.length === 0 ? 0 : 1
}

/** One label a line. */
function readSchedule(file: string): string[] {
  try {
    return readFileSync(file, 'utf8')
      .split('\n')
      .filter((one) => one !== '')
  } catch (cause) {
    throw usageError(`--replay: ${file} cannot be read: ${systemReason(cause)}.`)
  }
}

process.exitCode = await exitCode(main)
