/** Do aimed schedules come to cells of the coverage table to which drawn ones do not? */
import { expect, test } from 'vitest'
import { Aim, runRange, type CoverageRows } from '@kvx/simulator'

const count = 250

function cellsOf(rows: CoverageRows): number {
  return Object.values(rows)
    .flat()
    .filter((times) => times > 0).length
}

test('of as many schedules those that are aimed come to more cells, and break no invariant either', () => {
  const drawn = runRange(1, count)
  const aimed = new Aim({}).run(1, count)
  expect(aimed.schedules).toBe(drawn.schedules)
  expect(aimed.violations).toEqual([])
  expect(cellsOf(aimed.coverage)).toBeGreaterThan(cellsOf(drawn.coverage))
}, 600_000)

test('the same seeds give the same aimed schedules', () => {
  const run = () => new Aim({ mode: 'safety' }).run(7, 60)
  expect(run()).toEqual(run())
})
