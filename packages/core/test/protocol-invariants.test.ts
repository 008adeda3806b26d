import { expect, test } from 'vitest'
import type { FenceKind } from '@kvx/core/backend'
import { World } from './protocol/world.ts'

const coverage = new Map<string, number>()

/** Runs one schedule; a violation is reported with its seed and the last of its trace. */
function run(seed: number, fence: FenceKind, steps: number): World {
  const world = new World({
    seed,
    fence,
    prefills: 1 + (seed % 2),
    decodes: 1 + (seed % 3 === 0 ? 1 : 0),
  })
  try {
    for (let i = 0; i < steps; i++) world.step()
    world.heal()
    world.mustSucceed(2)
    world.heal()
    world.checkOver()
  } catch (error) {
    const tail = world.trace.slice(-80).join('\n')
    throw new Error(`seed ${String(seed)}, fence ${fence}: ${(error as Error).message}\n${tail}`, {
      cause: error,
    })
  }
  for (const [what, count] of world.coverage) coverage.set(what, (coverage.get(what) ?? 0) + count)
  return world
}

const first = Number(process.env.KVX_PROTOCOL_SEED ?? 1)
const schedules = Number(process.env.KVX_PROTOCOL_SCHEDULES ?? 150)

test.each(['exit', 'engine'] as const)(
  'no random schedule with fence kind %s breaks an invariant, and all of it ends',
  (fence) => {
    const sum = { started: 0, succeeded: 0, failed: 0 }
    for (let seed = first; seed < first + schedules; seed++) {
      const counts = run(seed, fence, 1_200).counts()
      sum.started += counts.started
      sum.succeeded += counts.succeeded
      sum.failed += counts.failed
    }
    // Schedules in which everything fails, or nothing does, would show little.
    expect(sum.succeeded).toBeGreaterThan(sum.started / 10)
    expect(sum.failed).toBeGreaterThan(sum.started / 10)
  },
  120_000,
)
