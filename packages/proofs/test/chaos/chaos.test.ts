/** Do requests through real processes survive, or end as they should, when those are killed, frozen and ended under load? */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { phases } from '../../src/chaos/phases.ts'
import { reportText } from '../../src/chaos/report.ts'
import { runChaos } from '../../src/chaos/run.ts'
import { errorWithinMs, patienceMs } from '../../src/chaos/settings.ts'

const seed = 20_261_123

const noop = () => undefined

test(
  'twenty faults in every phase affect only requests that they hit, and everything is as before afterwards',
  { timeout: 15 * patienceMs },
  async ({ signal }) => {
    const folder = await mkdtemp(join(tmpdir(), 'kvx-chaos-'))
    process.stderr.write(`chaos: seed ${String(seed)}, logs in ${folder}\n`)
    const run = runChaos({
      engines: ['shm'],
      faults: 20,
      seed,
      leastPerPhase: 1,
      // A slow machine must answer them beside everything else that it has to do.
      lanes: 3,
      errorWithinMs: 3 * errorWithinMs,
      folder,
      progress: (line) => process.stderr.write(`${line}\n`),
      signal,
    })
    // Also when the time of the test is up: the run ends its processes after the present round.
    onTestFinished(() => run.then(noop, noop), 5 * patienceMs)
    const report = await run
    process.stderr.write(reportText(report))
    expect(report.failures).toEqual([])
    expect(report.made.length).toBeGreaterThanOrEqual(20)
    const recorded = report.made.map(({ phase }) => phase)
    expect(recorded).toEqual(expect.arrayContaining([...phases]))
    expect(report.verdicts.some(({ kind }) => kind === 'affected')).toBe(true)
    await rm(folder, { recursive: true, force: true })
  },
)
