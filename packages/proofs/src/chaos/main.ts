/** `npm run chaos`. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { anySeed, endEarly, exitCode, mostSeed, readFlags, whole } from '../command.ts'
import { reportText } from './report.ts'
import { runChaos } from './run.ts'
import { afterRound, lanes } from './settings.ts'

const help = `Faults at real kvx processes under load, and whether everybody comes out of them right.

  npm run chaos -- [--engine shm|mooncake]… [--faults N] [--seed S] [--keep]

  --engine NAME  Transfer engine; repeatable. Default: shm and mooncake
  --faults N     Faults in all, shared between the engines. Default: 200
  --seed S       Draws the plan of faults, prompts and load. Default: a random one, printed
  --keep         Keep the logs of all processes also when nothing fails
  --help         This text

A prefill worker, a decode worker and a router run as processes of their own; ${String(lanes)} requests run all
the time. Faults are kill -9, SIGSTOP (thawed early, thawed late, or killed while frozen) and SIGTERM
of each process, and clients that leave, each aimed at a request in one of six phases. The phase that
counts is read from the workers' logs at the moment of the fault. Ctrl-C ends after the present round.

A round is one fault per phase, one after another; each time the dead are started again behind the
same ports, and the next fault comes when both have done a new request. After a round the load ends,
the page gauges of both workers must be where they were at the start, and the next ${String(afterRound)} requests
must succeed. A request that a fault has hit must end in time with an error that names phase and peer;
every other must have exactly the tokens of a standalone worker.

Exit code: 0 when all of that holds, 1 when something does not (the folder with logs is named), 2 for
a wrong command line.
`

const faultsForLeast = 100

async function main(): Promise<number> {
  const values = readFlags({
    engine: { type: 'string', multiple: true, default: ['shm', 'mooncake'] },
    faults: { type: 'string', default: '200' },
    seed: { type: 'string', default: String(anySeed()) },
    keep: { type: 'boolean', default: false },
  })
  if (values.help) {
    process.stdout.write(help)
    return 0
  }
  const faults = whole('faults', values.faults)
  const seed = whole('seed', values.seed, { most: mostSeed })
  const stop = endEarly('ending after this round')
  const folder = await mkdtemp(join(tmpdir(), 'kvx-chaos-'))
  process.stderr.write(`seed ${String(seed)}, logs in ${folder}\n`)
  const report = await runChaos({
    engines: values.engine,
    faults,
    seed,
    leastPerPhase: faults >= faultsForLeast ? 10 : 0,
    folder,
    progress: (line) => process.stderr.write(`${line}\n`),
    signal: stop,
  })
  process.stdout.write(`\n${reportText(report)}`)
  for (const failure of report.failures) process.stdout.write(`FAILED: ${failure}\n`)
  const failed = report.failures.length > 0
  if (failed || values.keep) process.stdout.write(`The logs of all processes are in ${folder}.\n`)
  else await rm(folder, { recursive: true, force: true })
  if (stop.aborted) process.stdout.write(`Interrupted: ${String(faults)} faults were asked for.\n`)
  else if (!failed) process.stdout.write('Nothing went wrong.\n')
  process.stdout.write(`Seed ${String(seed)}.\n`)
  if (failed) return 1
  return stop.aborted ? 130 : 0
}

process.exitCode = await exitCode(main)
