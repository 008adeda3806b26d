/** `npm run chaos`. */
import { parseArgs } from 'node:util'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { runChaos } from './run.ts'

const { values } = parseArgs({
  options: {
    engine: { type: 'string', multiple: true },
    faults: { type: 'string', default: '200' },
    seed: { type: 'string' },
    keep: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
})
const seed = values.seed === undefined ? Math.floor(Math.random() * 2 ** 32) : Number(values.seed)
const folder = await mkdtemp(join(tmpdir(), 'kvx-chaos-'))
process.stderr.write(`seed ${String(seed)}, logs in ${folder}\n`)
const report = await runChaos({
  engines: values.engine ?? ['shm', 'mooncake'],
  faults: Number(values.faults),
  seed,
  leastPerPhase: Number(values.faults) >= 100 ? 10 : 0,
  folder,
  progress: (line) => process.stderr.write(`${line}\n`),
})
for (const failure of report.failures) process.stderr.write(`FAILED: ${failure}\n`)
process.stderr.write(
  `${String(report.made.length)} faults in ${(report.took / 1000).toFixed(0)} s\n`,
)
if (report.failures.length > 0) process.exitCode = 1
else if (!values.keep) await rm(folder, { recursive: true, force: true })
