/** Does a deployment come out of a network that went away between its workers? */
import { fork } from 'node:child_process'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { expect, onTestFinished, test } from 'vitest'
import { whyNot } from '../../src/chaos/namespaces.ts'
import type { PartitionReport } from '../../src/chaos/partition.ts'
import { patienceMs } from '../../src/chaos/settings.ts'

const program = join(import.meta.dirname, '../../dist/chaos/partition-main.js')

/** Milliseconds from the healing to a whole answer: far less than TCP by itself would take after 70 s. */
const withinSeconds = 30_000

const reason = whyNot()
if (reason !== undefined) process.stderr.write(`The partition is skipped: ${reason}.\n`)

test.skipIf(reason !== undefined)(
  'a network that is away for 3, 25 and 70 s costs requests, but no answer is wrong, no page is lost, and service is back at once',
  { timeout: 5 * patienceMs },
  async () => {
    const args = ['--engine', 'mooncake', '--seed', '20261128', '--json']
    const run = fork(program, args, {
      execArgv: [],
      stdio: ['ignore', 'pipe', 'inherit', 'ipc'],
    })
    onTestFinished(() => {
      run.kill('SIGTERM')
    })
    const report = JSON.parse(await text(run.stdout!)) as PartitionReport
    expect(report.failures).toEqual([])
    expect(report.recoveries).toHaveLength(3)
    for (const ms of report.recoveries) expect(ms).toBeLessThan(withinSeconds)
    // The cuts were felt, and not by everybody.
    const kinds = report.verdicts.map(({ kind }) => kind)
    expect(kinds).toContain('affected')
    expect(kinds).toContain('ok')
  },
)
