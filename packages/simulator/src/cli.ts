#!/usr/bin/env node
/** `npm run sim`. */
import { readFileSync } from 'node:fs'
import { help, readArgs, type Args } from './run/args.ts'
import { useCore } from './run/other-core.ts'
import type { Totals } from './run/job.ts'
import type { Action } from './world/actions.ts'

const print = (text: string) => process.stdout.write(`${text}\n`)

async function main(): Promise<number> {
  let args: Args
  try {
    args = readArgs(process.argv.slice(2))
    if (args.core !== undefined) useCore(args.core)
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\nTry --help.\n`)
    return 2
  }
  if (args.help) {
    print(help)
    return 0
  }
  return args.seed === undefined ? await runMany(args) : await runOne(args.seed, args)
}

function readActions(file: string): Action[] {
  return JSON.parse(readFileSync(file, 'utf8')) as Action[]
}

/** Replays a seed. */
async function runOne(seed: number, { filter, actions: file }: Args): Promise<number> {
  const { runSchedule } = await import('./run/schedule.ts')
  const { describe, violationReport } = await import('./run/report.ts')
  const actions = file === undefined ? undefined : readActions(file)
  const result = runSchedule({ ...filter, seed, traced: true, ...(actions && { actions }) })
  if (result.violation) {
    print(violationReport(seed, filter, actions))
    return 1
  }
  print(result.trace.join('\n'))
  print(`seed ${seed}: ${describe(result)}\nno violation`)
  return 0
}

async function runMany(args: Args): Promise<number> {
  const { spread } = await import('./run/spread.ts')
  const { coverageFaults } = await import('./run/job.ts')
  const { coverageTable, summary, violationReport } = await import('./run/report.ts')
  const started = Date.now()
  const seconds = () => (Date.now() - started) / 1_000
  let told = 0
  let toldViolations = 0
  const onProgress = (totals: Totals) => {
    const isTerminal = process.stderr.isTTY
    // Nobody need wait for the end of a long run to look at one.
    for (const { seed, check } of totals.violations.slice(toldViolations)) {
      process.stderr.write(`${isTerminal ? '\n' : ''}violation, seed ${seed}: ${check}\n`)
    }
    toldViolations = totals.violations.length
    if (seconds() - told < (isTerminal ? 0.5 : 15)) return
    told = seconds()
    process.stderr.write(
      `${isTerminal ? '\r' : ''}${progress(totals, args.schedules, seconds())}${isTerminal ? ' ' : '\n'}`,
    )
  }
  const totals = await spread({ ...args, onProgress })
  if (process.stderr.isTTY) process.stderr.write('\n')
  const { wrong, missed } = coverageFaults(totals)
  const first = `seeds ${args.from} to ${args.from + args.schedules - 1}`
  if (args.json) {
    print(
      JSON.stringify(
        { ...totals, seconds: seconds(), from: args.from, wrong, missed },
        undefined,
        1,
      ),
    )
  } else {
    print(summary(totals, seconds()))
    print(first)
    if (args.table) print(coverageTable(totals.coverage))
    for (const text of [...wrong, ...missed]) print(text)
    const shown = new Set<string>()
    for (const { seed, check, actions } of totals.violations) {
      if (shown.has(check) || shown.size === 3) continue
      shown.add(check)
      print('')
      print(violationReport(seed, args.filter, actions))
    }
  }
  return totals.violations.length > 0 || wrong.length > 0 ? 1 : 0
}

function progress({ schedules, violations }: Totals, of: number, seconds: number): string {
  const rate = schedules / seconds
  const left = Math.round((of - schedules) / rate)
  const minutes = `${Math.floor(left / 60)}:${String(left % 60).padStart(2, '0')}`
  return `${schedules} of ${of} schedules, ${rate.toFixed(0)} per second, ${minutes} left, ${violations.length} violations`
}

// Whoever reads this may go away, as `head` does: the exit code still tells how the run ended.
for (const stream of [process.stdout, process.stderr]) stream.on('error', () => undefined)
process.exitCode = await main()
