import { expect, test } from 'vitest'
import { fences, modes, runRange, type Totals } from '@kvx/simulator'

const filters = modes.flatMap((mode) => fences.map((fence) => ({ mode, fence })))
const fixed = 20_000
const random = 2_000
/** Printed with a failure, so that random schedules can be replayed too. */
const base = Math.floor(Math.random() * 2 ** 31)
/** Only against hanging. */
const timeout = 1_200_000

function violations({ violations: found }: Totals): string[] {
  return found.map(({ seed, text }) => `--seed ${String(seed)}: ${text}`)
}

test.each(filters)(
  'no fixed schedule of mode $mode with fence $fence breaks an invariant',
  (filter) => {
    const count = Math.ceil(fixed / filters.length)
    const totals = runRange(1, count, filter)
    expect(violations(totals)).toEqual([])
    // Schedules in which everything fails, or nothing does, would show little.
    expect(totals.succeeded).toBeGreaterThan(count / 2)
    expect(totals.failed).toBeGreaterThan(count / 4)
    expect(totals.healthy).toBeGreaterThan(filter.mode === 'liveness' ? count : -1)
  },
  timeout,
)

test.each(filters)(
  `no random schedule from seed ${String(base)} on of mode $mode with fence $fence breaks an invariant`,
  (filter) => {
    expect(violations(runRange(base, Math.ceil(random / filters.length), filter))).toEqual([])
  },
  timeout,
)
