/** `npm run soak`. */
import { mkdtemp, rename, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { anySeed, endEarly, exitCode, mostSeed, readFlags, usageError, whole } from '../command.ts'
import { soakText } from './report.ts'
import { engines as known, runSoak, type SoakReport } from './run.ts'

const help = `Load, faults and aborts together for hours: does anything get lost, come out wrong, or grow?

  npm run soak -- [--hours H | --minutes M] [--engines NAME,…] [--rate R] [--fault-every S] [--seed S] [--out FILE]

  --hours H        How long, fractions too. Default: 2
  --minutes M      Instead of hours
  --engines NAME,… Transfer engines. Default: shm,mooncake,mori (MORI on a fake libibverbs)
  --rate R         Requests a second, of each engine. Default: 2
  --fault-every S  Seconds between the faults of an engine, on the average. Default: 20
  --seed S         Draws requests, aborts and faults. Default: a random one, printed
  --out FILE       The report as JSON, written again each minute. Default: in a new folder for temporary files
  --help           This text

Each engine has two prefill and two decode workers of their own processes, with caches that are filled by
pattern and looked at byte by byte where they arrive; any prefill worker sends to any decode worker. One of
each is killed (kill -9) and started again; the others live as long as the run. All of them are frozen
(SIGSTOP) for a moment, which nobody may notice, or for longer than peers wait; and lose all of their
TCP connections at once (ss -K, which needs CAP_NET_ADMIN; without it that is left out and said so). Some
requests are aborted, by either side. The next fault comes when every pair has succeeded again and no page
is in quarantine. Ctrl-C ends the run early, with its report; once more ends it at once.

Exit code: 0 when nothing went wrong; 1 when a page did not come back, a byte was wrong, a request was lost
or failed without a fault, something outlived the run, or a worker that lives all the time grows: faster
than the bound in the report (least squares after the warm-up, less three standard errors; --minutes 30
is the least for that); 130 when it was ended early and nothing went wrong; 2 for a wrong command line.
`

async function main(): Promise<number> {
  const values = readFlags({
    hours: { type: 'string' },
    minutes: { type: 'string' },
    engines: { type: 'string', default: known.join(',') },
    rate: { type: 'string', default: '2' },
    'fault-every': { type: 'string', default: '20' },
    seed: { type: 'string', default: String(anySeed()) },
    out: { type: 'string' },
  })
  if (values.help) {
    process.stdout.write(help)
    return 0
  }
  const { hours, minutes } = values
  if (hours !== undefined && minutes !== undefined)
    throw usageError('--hours and --minutes do not go together')
  const ms =
    minutes === undefined
      ? positive('hours', hours ?? '2') * 3_600_000
      : positive('minutes', minutes) * 60_000
  const engines = values.engines.split(',')
  for (const engine of engines) {
    if (!known.some((one) => one === engine))
      throw usageError(`--engines can have ${known.join(', ')}, got ${engine}`)
  }
  const seed = whole('seed', values.seed, { most: mostSeed })
  const stop = endEarly('ending')
  const file = values.out ?? join(await mkdtemp(join(tmpdir(), 'kvx-soak-')), 'report.json')
  process.stderr.write(`seed ${String(seed)}, report in ${file}\n`)
  let written = Promise.resolve()
  const save = (report: SoakReport): void => {
    // Whoever reads it never sees half of it.
    written = written.then(async () => {
      await writeFile(`${file}.new`, JSON.stringify(report))
      await rename(`${file}.new`, file)
    })
  }
  const report = await runSoak({
    ...{ engines, ms, seed, sampleEveryMs: 10_000, signal: stop, onReport: save },
    rate: positive('rate', values.rate),
    faultEveryMs: positive('fault-every', values['fault-every']) * 1_000,
    progress: (line) => process.stderr.write(`${line}\n`),
  })
  await written
  process.stdout.write(`\n${soakText(report)}`)
  for (const failure of report.failures) process.stdout.write(`FAILED: ${failure}\n`)
  if (stop.aborted) process.stdout.write('Ended early.\n')
  if (report.failures.length === 0) process.stdout.write('Nothing went wrong.\n')
  process.stdout.write(`Seed ${String(seed)}. Report: ${file}\n`)
  if (report.failures.length > 0) return 1
  return stop.aborted ? 130 : 0
}

function positive(flag: string, text: string): number {
  const value = Number(text)
  if (text.trim() !== '' && value > 0 && Number.isFinite(value)) return value
  throw usageError(`--${flag} must be a positive number, got ${text}`)
}

process.exitCode = await exitCode(main)
