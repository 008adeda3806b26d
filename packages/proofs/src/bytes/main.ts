/** `npm run prop`: which bytes go where, by random cases against the reference, on all cores. */
import { fork } from 'node:child_process'
import { availableParallelism } from 'node:os'
import { anySeed, exitCode, readFlags, usageError, whole } from '../command.ts'
import { promises, tryPromise, type Outcome } from './property.ts'

const help = `npm run prop -- [--promise P] [--cases N] [--seed S] [--jobs J]
npm run prop -- [--promise P] --seed S --path P

Random caches, topologies, places and requests; every byte that kvx would write is compared with a reference that knows
nothing of how kvx finds it.

  --promise P bytes: every byte that is needed is written once, and no other (default)
              digests: the digests of both sides agree, until one byte that is needed changes
  --cases N   cases to try (default 200000)
  --seed S    of the random cases (default: one that is told)
  --jobs J    processes (default: one per core)
  --path P    replays one counterexample of a seed`

/** Each process adds its number; what fast-check tells for a replay must not be negative. */
const mostSeed = 2 ** 30

/** What this program tells itself: no option of a user. */
const jobFlag = '--job'

interface Job {
  readonly promise: keyof typeof promises
  readonly cases: number
  readonly seed: number
}

/** What a process tells: how many cases it has tried so far, and at last how it ended. */
type Told = { readonly tried: number } | { readonly outcome: Outcome }

const print = (text: string) => process.stdout.write(`${text}\n`)

async function main(): Promise<number> {
  const options = readOptions()
  if (options.help) {
    print(help)
    return 0
  }
  const { promise, cases, seed, jobs, path } = options
  const started = Date.now()
  const seconds = () => ((Date.now() - started) / 1_000).toFixed(0)
  if (path !== undefined)
    return conclude(promise, [tryPromise({ promise, cases: 1, seed, path })], seconds())
  print(`${promise}: ${String(cases)} cases, seed ${String(seed)}, ${String(jobs)} processes`)
  const tried = new Array<number>(jobs).fill(0)
  const timer = setInterval(() => {
    const all = tried.reduce((sum, count) => sum + count, 0)
    process.stderr.write(`${String(all)} of ${String(cases)} cases, ${seconds()} s\n`)
  }, 15_000)
  try {
    const outcomes = await Promise.all(
      tried.map((_, job) =>
        inProcess({ promise, cases: share(cases, jobs, job), seed: seed + job }, (count) => {
          tried[job] = count
        }),
      ),
    )
    return conclude(promise, outcomes, seconds())
  } finally {
    clearInterval(timer)
  }
}

function readOptions() {
  const values = readFlags({
    promise: { type: 'string', default: 'bytes' },
    cases: { type: 'string', default: '200000' },
    seed: { type: 'string', default: String(anySeed(mostSeed)) },
    jobs: { type: 'string', default: String(availableParallelism()) },
    path: { type: 'string' },
  })
  const { promise, path, help } = values
  if (!isPromise(promise)) {
    throw usageError(`--promise must be ${Object.keys(promises).join(' or ')}, got ${promise}`)
  }
  if (path !== undefined && !/^\d+(:\d+)*$/.test(path)) {
    throw usageError(`--path must be numbers with colons between them, got ${path}`)
  }
  return {
    promise,
    cases: whole('cases', values.cases, { least: 1 }),
    seed: whole('seed', values.seed, { most: mostSeed }),
    jobs: whole('jobs', values.jobs, { least: 1 }),
    path,
    help,
  }
}

function isPromise(name: string): name is keyof typeof promises {
  return Object.hasOwn(promises, name)
}

function share(cases: number, jobs: number, job: number): number {
  return Math.floor(((job + 1) * cases) / jobs) - Math.floor((job * cases) / jobs)
}

function conclude(promise: string, outcomes: readonly Outcome[], seconds: string): number {
  const cases = outcomes.reduce((sum, outcome) => sum + outcome.cases, 0)
  const failures = outcomes.flatMap(({ failure }) => (failure ? [failure] : []))
  for (const { seed, path, text } of failures) {
    print(
      `${text}\nreplay: npm run prop -- --promise ${promise} --seed ${String(seed)} --path ${path}\n`,
    )
  }
  print(`${String(cases)} cases in ${seconds} s, ${String(failures.length)} wrong`)
  return failures.length > 0 ? 1 : 0
}

function inProcess(job: Job, onTried: (count: number) => void): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    const child = fork(import.meta.filename, [jobFlag, JSON.stringify(job)])
    child.on('message', (told: Told) => {
      if ('tried' in told) onTried(told.tried)
      else resolve(told.outcome)
    })
    child.on('error', reject)
    child.on('exit', (code, signal) => {
      reject(new Error(`A process ended before its cases: ${String(signal ?? code)}.`))
    })
  })
}

/** One process of a run. It ends with the one that started it. */
function work(job: Job): void {
  const parent = process.ppid
  const tell = (told: Told) => {
    process.send?.(told)
  }
  let tried = 0
  const outcome = tryPromise({
    ...job,
    onCase: () => {
      if (++tried % 500 !== 0) return
      if (process.ppid !== parent) process.exit(1)
      tell({ tried })
    },
  })
  tell({ outcome })
  process.disconnect()
}

const [flag, job] = process.argv.slice(2)
if (flag === jobFlag && job !== undefined) work(JSON.parse(job) as Job)
else process.exitCode = await exitCode(main)
