/** `npm run chaos`. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
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
same ports, and the next fault comes when a new request has succeeded. After a round the load ends,
the page gauges of both workers must be where they were at the start, and the next ${String(afterRound)} requests
must succeed. A request that a fault has hit must end in time with an error that names phase and peer;
every other must have exactly the tokens of a standalone worker.

Exit code: 0 when all of that holds, 1 when something does not (the folder with logs is named), 2 for
a wrong command line.
`

const faultsForLeast = 100

async function main(): Promise<number> {
  const values = parse()
  if (values.help) {
    process.stdout.write(help)
    return 0
  }
  const engines = values.engine ?? ['shm', 'mooncake']
  const faults = integer('faults', values.faults) ?? 200
  const seed = integer('seed', values.seed) ?? Math.floor(Math.random() * 2 ** 32)
  const stop = new AbortController()
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.on(signal, () => {
      if (stop.signal.aborted) process.exit(130)
      process.stderr.write('ending after this round; once more to end at once\n')
      stop.abort()
    })
  }
  const folder = await mkdtemp(join(tmpdir(), 'kvx-chaos-'))
  process.stderr.write(`seed ${String(seed)}, logs in ${folder}\n`)
  const report = await runChaos({
    engines,
    faults,
    seed,
    leastPerPhase: faults >= faultsForLeast ? 10 : 0,
    folder,
    progress: (line) => process.stderr.write(`${line}\n`),
    signal: stop.signal,
  })
  process.stdout.write(`\n${reportText(report)}`)
  for (const failure of report.failures) process.stdout.write(`FAILED: ${failure}\n`)
  const failed = report.failures.length > 0
  if (failed || values.keep) process.stdout.write(`The logs of all processes are in ${folder}.\n`)
  else await rm(folder, { recursive: true, force: true })
  if (stop.signal.aborted)
    process.stdout.write(`Interrupted: ${String(faults)} faults were asked for.\n`)
  else if (!failed) process.stdout.write('Nothing went wrong.\n')
  process.stdout.write(`Seed ${String(seed)}.\n`)
  if (failed) return 1
  return stop.signal.aborted ? 130 : 0
}

class UsageError extends Error {}

function parse() {
  try {
    return parseArgs({
      options: {
        engine: { type: 'string', multiple: true },
        faults: { type: 'string' },
        seed: { type: 'string' },
        keep: { type: 'boolean' },
        help: { type: 'boolean' },
      },
    }).values
  } catch (cause) {
    throw new UsageError((cause as Error).message, { cause })
  }
}

function integer(name: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined
  if (/^\d+$/.test(text) && Number(text) < 2 ** 32) return Number(text)
  throw new UsageError(`--${name} must be an integer below 2^32, not '${text}'.`)
}

try {
  process.exitCode = await main()
} catch (cause) {
  const isUsage = cause instanceof UsageError
  const text = isUsage || !(cause instanceof Error) ? cause : (cause.stack ?? cause)
  process.stderr.write(`chaos: ${String(text).replace(/^Error: /, '')}\n`)
  process.exitCode = isUsage ? 2 : 1
}
