/** `npm run partition`. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { anySeed, exitCode, mostSeed, readFlags, whole } from '../command.ts'
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
  const values = readFlags({
    engine: { type: 'string', default: 'mooncake' },
    cut: { type: 'string', multiple: true, default: ['3', '25', '70'] },
    lanes: { type: 'string', default: '4' },
    seed: { type: 'string', default: String(anySeed()) },
    json: { type: 'boolean', default: false },
    keep: { type: 'boolean', default: false },
  })
  if (values.help) {
    process.stdout.write(help)
    return 0
  }
  const { engine } = values
  const cuts = values.cut.map((text) => whole('cut', text))
  const lanes = whole('lanes', values.lanes, { least: 1 })
  const seed = whole('seed', values.seed, { most: mostSeed })
  if (process.env[inside] === undefined) {
    const reason = whyNot()
    if (reason !== undefined) {
      process.stderr.write(`partition: ${reason}\n`)
      return 3
    }
    install(engine)
    return runInRouter()
  }
  const folder = await mkdtemp(join(tmpdir(), 'kvx-partition-'))
  process.stderr.write(`seed ${String(seed)}, logs in ${folder}\n`)
  const report = await runPartition({
    engine,
    cuts,
    seed,
    lanes,
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

// Whoever started it has gone.
process.once('disconnect', () => process.exit(1))

process.exitCode = await exitCode(main)
if (process.connected) process.disconnect()
