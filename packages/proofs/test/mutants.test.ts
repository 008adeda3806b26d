/** Is every defect found that is put into core? */
import { readFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { changedFiles, coreSource, Laboratory } from '../src/mutants/build.ts'
import { hunt } from '../src/mutants/hunt.ts'
import { mutants } from '../src/mutants/list.ts'
import { invariants, unchanged } from '../src/mutants/mutant.ts'

/** Schedules within which a mutant must be found. */
const most = 2_000

/** Where each was found before: when core or simulator have changed, it may be elsewhere. */
const seedOf = JSON.parse(
  readFileSync(new URL('../src/mutants/seeds.json', import.meta.url), 'utf8'),
) as Record<string, number>

test('every invariant has mutants, each with a name of its own', () => {
  expect(new Set(mutants.map(({ invariant }) => String(invariant)))).toEqual(
    new Set(Object.keys(invariants)),
  )
  expect(new Set(mutants.map(({ name }) => name)).size).toBe(mutants.length)
})

test('a text that core does not have, or has twice, is no mutant', () => {
  const edit = (find: string) => ({
    name: 'wrong',
    edits: [{ file: 'plan/group-list.ts', find, replace: '' }],
  })
  expect(() => changedFiles(coreSource(), edit('no such text'))).toThrow(/occurs 0 times/)
  expect(() => changedFiles(coreSource(), edit('nextSource'))).toThrow(/occurs [2-9] times/)
})

describe('of defects', () => {
  let laboratory: Laboratory
  beforeAll(() => {
    laboratory = new Laboratory(coreSource())
  })
  afterAll(() => {
    laboratory.remove()
  })

  test('none is found in core as it is', async () => {
    for (const none of unchanged) {
      const { first, schedules } = await laboratory.with(none, (program) =>
        hunt(program, { from: 1, least: 100, most: 100 }),
      )
      expect(first).toBeUndefined()
      expect(schedules).toBe((none.by ?? 'schedules') === 'schedules' ? 100 : 1)
    }
  })

  test.each(mutants)('$name is found', { timeout: 300_000 }, async (mutant) => {
    const { first, schedules } = await laboratory.with(mutant, async (program) => {
      const from = seedOf[mutant.name]
      const { among } = mutant
      const before = from && (await hunt(program, { from, least: 1, most: 1, among }))
      return before && before.first ? before : hunt(program, { from: 1, least: 0, most, among })
    })
    expect(first, `not found in ${schedules} schedules`).toBeDefined()
  })
})
