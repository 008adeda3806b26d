import { createHash } from 'node:crypto'
import { expect, test } from 'vitest'
import { coverageFaults, noTotals, runRange, runSchedule, unreachable } from '@kvx/simulator'

const traceHash = (seed: number) =>
  createHash('sha256')
    .update(runSchedule({ seed, traced: true }).trace.join('\n'))
    .digest('hex')

test('the same seed gives the same trace, whatever ran before', () => {
  const seeds = Array.from({ length: 40 }, (_, i) => 7_000 + i)
  const hashes = seeds.map(traceHash)
  expect(seeds.toReversed().map(traceHash).toReversed()).toEqual(hashes)
  expect(new Set(hashes).size).toBe(seeds.length)
})

test('a trace changes nothing of what happens', () => {
  for (let seed = 1; seed <= 40; seed++) {
    const plain = runSchedule({ seed })
    const traced = runSchedule({ seed, traced: true })
    expect([traced.events, traced.succeeded, traced.failed]).toEqual([
      plain.events,
      plain.succeeded,
      plain.failed,
    ])
  }
})

test('leaving out every action leaves a quiet world', () => {
  const { violation, succeeded, failed } = runSchedule({ seed: 3, mode: 'safety', actions: [] })
  expect({ violation, succeeded, failed }).toEqual({
    violation: undefined,
    succeeded: 0,
    failed: 0,
  })
})

test('a cell that is held to be unreachable fails the run when it is reached', () => {
  const totals = {
    ...noTotals(),
    schedules: 1,
    coverage: { 'P ack parked': Array<number>(9).fill(1) },
  }
  expect(coverageFaults(totals).wrong[0]).toContain('held to be unreachable')
})

test('every cell that is held to be unreachable has a reason', () => {
  expect(unreachable.length).toBeGreaterThan(0)
  for (const { reason } of unreachable) expect(reason.length).toBeGreaterThan(20)
})

test('a row that the table does not know fails the run', () => {
  const totals = { ...noTotals(), schedules: 1, coverage: { 'P hello asleep': [1] } }
  expect(coverageFaults(totals).wrong[0]).toContain('no row')
})

test('after many schedules a reachable cell that was never reached is told', () => {
  const few = { ...noTotals(), schedules: 1_000 }
  expect(coverageFaults(few).missed).toEqual([])
  expect(coverageFaults({ ...few, schedules: 100_000 }).missed.length).toBeGreaterThan(50)
})

test('a range of seeds counts what its schedules count', () => {
  const totals = runRange(500, 30)
  const single = Array.from({ length: 30 }, (_, i) => runSchedule({ seed: 500 + i }))
  expect(totals.schedules).toBe(30)
  expect(totals.events).toBe(single.reduce((sum, { events }) => sum + events, 0))
  expect(totals.succeeded).toBe(single.reduce((sum, { succeeded }) => sum + succeeded, 0))
})

test('some schedules have a connection that is cut because nobody reads', () => {
  const traces = Array.from({ length: 300 }, (_, i) => runSchedule({ seed: i + 1, traced: true }))
  const cut = traces.filter(({ trace }) => trace.some((line) => line.endsWith('does not read')))
  expect(cut.length).toBeGreaterThan(4)
  expect(cut.length).toBeLessThan(traces.length / 2)
})
