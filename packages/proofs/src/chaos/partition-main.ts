/** `npm run partition`. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { install } from './cluster.ts'
import { inRouter, whyNot } from './namespaces.ts'
import { runPartition, type PartitionReport } from './partition.ts'

const help = `Prefill and decode on two machines between which the network goes away and comes back under load.

  npm run partition -- [--engine mooncake] [--cut SECONDS]… [--lanes N] [--seed S] [--json] [--keep]

  --engine NAME  Transfer engine. Default: mooncake
  --cut SECONDS  How long the network is away; repeatable. Default: 3, 25 and 70
  --lanes N      Requests that run all the time. Default: 4
  --seed S       Draws prompts and load. Default: a random one, printed
  --json         Print the report as JSON
  --keep         Keep the logs of all processes also when nothing fails
  --help         This text

The machines are network namespaces; the namespace between them stops forwarding, so that packets are lost
without a word to either side, while the router goes on to reach both. Every answer must have exactly the tokens of a
standalone worker, every error must name a cause; after each cut the page gauges of both workers must be
where they were at the start, and in the end every process must exit with 0 on SIGTERM.

Exit code: 0 when all of that holds, 1 when something does not (the folder with logs is named), 2 for a wrong
command line, 3 when network namespaces cannot be made here.
`

/** Set in the process that runs in the router's namespace. */
const inside = 'KVX_PARTITION'

async function main(): Promise<number> {
  const values = parse()
  if (values.help) {
    process.stdout.write(help)
    return 0
  }
  const engine = values.engine ?? 'mooncake'
  if (process.env[inside] === undefined) {
    const reason = whyNot()
    if (reason !== undefined) {
      process.stderr.write(`partition: ${reason}\n`)
      return 3
    }
    install(engine)
    return runInRouter()
  }
  const seed = integer('seed', values.seed) ?? Math.floor(Math.random() * 2 ** 32)
  const folder = await mkdtemp(join(tmpdir(), 'kvx-partition-'))
  process.stderr.write(`seed ${String(seed)}, logs in ${folder}\n`)
  const report = await runPartition({
    engine,
    cuts: values.cut?.map((text) => integer('cut', text)!) ?? [3, 25, 70],
    seed,
    lanes: integer('lanes', values.lanes) ?? 4,
    folder,
    progress: (line) => process.stderr.write(`${line}\n`),
  })
  process.stdout.write(values.json ? JSON.stringify(report) : reportText(report))
  const failed = report.failures.length > 0
  if (failed || values.keep) process.stderr.write(`The logs of all processes are in ${folder}.\n`)
  else await rm(folder, { recursive: true, force: true })
  return failed ? 1 : 0
}

/** Runs this program once more in a namespace of its own, which routes. */
async function runInRouter(): Promise<number> {
  const [command, ...args] = inRouter([
    process.execPath,
    fileURLToPath(import.meta.url),
    ...process.argv.slice(2),
  ])
  const child = spawn(command!, args, {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    env: { ...process.env, [inside]: '1' },
  })
  const end = () => child.kill('SIGTERM')
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, end)
  const [code] = (await once(child, 'close')) as [number | null]
  return code ?? 1
}

function reportText({ verdicts, recoveries, failures }: PartitionReport): string {
  const count = (kind: string) => String(verdicts.filter((verdict) => verdict.kind === kind).length)
  return [
    `${String(verdicts.length)} requests: ${count('ok')} with the tokens of one process, ${count('affected')} with an error that a cut explains, ${count('wrong')} wrong.`,
    `Served again ${recoveries.map((ms) => `${String(ms)} ms`).join(', ')} after each healing.`,
    ...failures.map((failure) => `FAILED: ${failure}`),
    '',
  ].join('\n')
}

class UsageError extends Error {}

function parse() {
  try {
    return parseArgs({
      options: {
        engine: { type: 'string' },
        cut: { type: 'string', multiple: true },
        lanes: { type: 'string' },
        seed: { type: 'string' },
        json: { type: 'boolean' },
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
  throw new UsageError(`--${name} must be an integer below 2^32, got '${text}'.`)
}

// Whoever started it has gone.
process.once('disconnect', () => process.exit(1))

try {
  process.exitCode = await main()
} catch (cause) {
  const isUsage = cause instanceof UsageError
  const text = isUsage || !(cause instanceof Error) ? cause : (cause.stack ?? cause)
  process.stderr.write(`partition: ${String(text).replace(/^Error: /, '')}\n`)
  process.exitCode = isUsage ? 2 : 1
} finally {
  if (process.connected) process.disconnect()
}
