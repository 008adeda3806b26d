/** The same a thousand times: what it costs must not grow. */
import type { CycleName } from '../child/leaks.ts'
import { must } from '../kit/promises.ts'
import { check, type Suite } from '../suite.ts'

const count = 1_000
const longestMs = 12_000
const KiB = 1024

/** The process may still settle in the first third; from then on nothing may grow with the cycles. */
const leak = (name: string, cycle: CycleName) =>
  check(`${name}, a thousand times`, async (world) => {
    const owner = await world.host('owner', [64 * KiB])
    const party = world.party('writer')
    party.reusable = false
    await party.ask('warmUp')
    const { done, samples } = await party.ask('cycle', cycle, { count, longestMs }, owner.peer)
    const [, second, last] = samples
    const cycles = done / 3
    for (const what of ['descriptors', 'threads'] as const) {
      const grown = last![what] - second![what]
      must(
        grown < Math.max(2, cycles / 10),
        'leavesNothing',
        `In the last ${Math.round(cycles)} of ${done} cycles (${name}) the process got ${grown} more ${what}.`,
      )
    }
    const grown = last!.bytes - second!.bytes
    must(
      grown < Math.max(8 * KiB * KiB, cycles * 8 * KiB),
      'leavesNothing',
      `In the last ${Math.round(cycles)} of ${done} cycles (${name}) the process grew by ${Math.round(grown / KiB)} KiB.`,
    )
  })

export const leaks: Suite = {
  name: 'leaks',
  checks: [
    leak('an engine', 'engine'),
    leak('a region', 'region'),
    leak('a link', 'link'),
    leak('a write', 'write'),
  ],
}
