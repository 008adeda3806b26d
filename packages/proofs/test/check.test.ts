/** Is every order of events in small worlds right, and would it be noticed if one were not? */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { explore } from '../src/check/explore.ts'
import { wrongRows } from '../src/check/cells.ts'
import { catchIt, isOfProtocol, seedOf } from '../src/check/mutants.ts'
import { tooSmallFor } from '../src/check/too-small.ts'
import { movesOf, perform } from '../src/check/moves.ts'
import type { World } from '../src/check/parts.ts'
import { faultKinds } from '../src/check/spec.ts'
import { textOf } from '../src/check/text.ts'
import { Universe } from '../src/check/world.ts'
import { walk } from '../src/check/walk.ts'
import { quick, wide, worlds } from '../src/check/worlds.ts'
import { coreSource, Laboratory } from '../src/mutants/build.ts'
import { mutants } from '../src/mutants/list.ts'

const bounds = { memory: 2e9, states: 100_000 }

test('every world has a name of its own', () => {
  expect(new Set(worlds.map(({ name }) => name)).size).toBe(worlds.length)
})

test.each(quick)(
  'in world $name every order of messages, calls, engine events and at most $most faults keeps the promises, and all ends',
  (spec) => {
    const { bound, found, rows } = explore(spec, bounds)
    expect(found).toBeUndefined()
    expect(bound).toBeUndefined()
    expect(wrongRows(rows)).toEqual([])
  },
)

test('a process that dies or stands still before the first request leaves a pair as it was, but for its name', () => {
  const universe = new Universe({ ...quick[0]!, oneByOne: true, faults: faultKinds, most: 1 })
  const { prefills, decodes } = universe.ground
  const textWithoutNames = ({ prefill, decode, net, engines, books, cast }: World) =>
    JSON.stringify([
      ...[textOf(prefills.at(prefill), 0), textOf(decodes.at(decode), 0), net, engines],
      ...[
        { ...books, jobs: books.jobs.length },
        { ...cast, faultsLeft: 0, columns: [] },
      ],
    ]).replaceAll(/\b([pd])\d+/g, '$1')
  const beginning: World = {
    ...universe.beginning(),
    books: { ...universe.beginning().books, jobs: [] },
  }
  const after = (world: World, begins: string) => {
    const turn = universe.turn(world)
    perform(
      turn,
      movesOf(turn).find(({ label }) => label().startsWith(begins))!,
    )
    return turn
  }
  const ends = [
    after(after(beginning, 'FAULT prefill dies'), 'prefill starts again'),
    after(after(beginning, 'FAULT decode dies'), 'decode starts again'),
    after(after(beginning, 'FAULT prefill stands still'), 'prefill is thawed'),
    after(after(beginning, 'FAULT decode stands still'), 'decode is thawed'),
  ]
  expect(ends.map(textWithoutNames)).toEqual(ends.map(() => textWithoutNames(beginning)))
})

test('a cell of the coverage table that is held to be unreachable is told when it is reached', () => {
  const wrong = wrongRows({
    calm: ['D accept paired'],
    hit: ['P ack parked', 'D accept paired'],
    cells: [],
  })
  expect(wrong.map((text) => text.split(';')[0])).toEqual([
    "'D accept paired' was reached without a fault",
    "'P ack parked' was reached after a fault",
  ])
})

test('every mutant of the protocol that small worlds cannot show has been found by the simulator', () => {
  const ofProtocol = mutants.filter(isOfProtocol).map(({ name }) => name)
  const tooSmall = Object.keys(tooSmallFor)
  expect(tooSmall.length).toBeGreaterThan(0)
  expect(ofProtocol).toEqual(expect.arrayContaining(tooSmall))
  for (const name of tooSmall) expect(seedOf(name)).toMatch(/^\d+$/)
})

test('a world with more states than it may have counts as not exhausted', () => {
  const [calm] = quick
  expect(explore(calm!, { ...bounds, states: 20 }).bound).toBe('states')
})

test('the same world has the same states, whatever was explored before', () => {
  const counts = () =>
    quick.slice(0, 3).map((spec) => {
      const { states, transitions, depth } = explore(spec, bounds)
      return [states, transitions, depth]
    })
  expect(counts()).toEqual(counts())
})

describe('of defects', () => {
  let laboratory: Laboratory
  beforeAll(() => {
    laboratory = new Laboratory(coreSource())
  })
  afterAll(() => {
    laboratory.remove()
  })

  test.each([
    ['complete-before-last', 'two-writes'],
    ['freed-with-link', 'crash'],
    ['lease-freed-on-abort', 'one-by-one'],
    ['drained-while-writing', 'write'],
    ['state-without-a-layer', 'by-layers'],
    ['queue-of-prefill-unheard', 'queued'],
    ['lost-links-kept', 'gone'],
    ['outcomes-kept', 'unsaid-abort'],
    ['mismatch-ignored', 'digests'],
    ['recycle-greets-nobody', 'replaced'],
  ])('%s is found in world %s, by the shortest schedule', async (name, world) => {
    const mutant = mutants.find((one) => one.name === name)!
    const caught = await laboratory.with(mutant, () =>
      catchIt(laboratory.file('check/hunt.js'), { worlds: [world], states: bounds.states }),
    )
    expect(caught?.world).toBe(world)
    expect(caught?.found.schedule.length).toBeGreaterThan(0)
  })

  test('what never ends is found in a part of a world as well', async () => {
    const mutant = mutants.find(({ name }) => name === 'lost-links-kept')!
    const search = { worlds: ['gone'], states: 100 }
    const caught = await laboratory.with(mutant, () =>
      catchIt(laboratory.file('check/hunt.js'), search),
    )
    expect(caught?.found.check).toBe('not ended though nothing is wrong any more')
  })
})

test('drawn schedules of worlds that are too large keep the promises, end, and come to cells of the coverage table', () => {
  for (const spec of wide) {
    const { found, rows } = walk({ ...spec, tellsFaults: true }, 6, 1)
    expect(found).toBeUndefined()
    expect(wrongRows(rows)).toEqual([])
    expect(rows.cells.length).toBeGreaterThan(10)
  }
})
