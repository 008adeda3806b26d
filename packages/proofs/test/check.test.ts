/** Is every order of events in small worlds right, and would it be noticed if one were not? */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { explore } from '../src/check/explore.ts'
import { wrongRows } from '../src/check/cells.ts'
import { catchIt, isOfProtocol, seedOf } from '../src/check/mutants.ts'
import { tooSmallFor } from '../src/check/too-small.ts'
import type { World } from '../src/check/parts.ts'
import { movesOf, perform } from '../src/check/moves.ts'
import type { FaultKind, Spec } from '../src/check/spec.ts'
import { lead } from '../src/check/guide.ts'
import { seldom } from '../src/check/seldom.ts'
import { textOf } from '../src/check/text.ts'
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

describe('the coverage table', () => {
  test.each(seldom)('$cell is come to: $spec.name', (one) => {
    const { rows } = lead(one.spec, one)
    expect(rows.cells).toContain(one.cell)
    expect(wrongRows(rows)).toEqual([])
  })

  /** States at rest that a pair comes to again and again, without names and numbers that count up. */
  function statesAtRest(fence: Spec['fence'], faults: readonly FaultKind[], wanted: string[]) {
    const spec: Spec = { ...quick[0]!, jobs: 2, oneByOne: true, fence, faults, most: faults.length }
    const avoided = ['prefill has a new engine']
    const led = lead(spec, { wanted: [...wanted, 'the router sends request 1'], avoided })
    const { prefills, decodes } = led.universe.ground
    const texts = new Set<string>()
    let world: World = { ...led.world, books: { ...led.world.books, jobs: [] } }
    if (wanted.length === 0) add(led.universe.beginning())
    for (let step = 0; step < 300; step++) {
      const turn = led.universe.turn(world)
      add(turn)
      const move = movesOf(turn).find(
        (one) => !one.isFault && !one.label().startsWith('the router'),
      )
      // Of a pair that no connection holds together nothing happens any more.
      if (!move) break
      perform(turn, move)
      world = turn
    }
    return texts

    function add({ prefill, decode, net, engines }: World) {
      const text = JSON.stringify([
        ...[textOf(prefills.at(prefill), 10_000), textOf(decodes.at(decode), 10_000)],
        ...[net, { ...engines, connected: [] }],
      ])
      texts.add(
        text
          .replaceAll(/\b([pdc])\d+([we]?)\d*/g, '$1$2')
          .replaceAll(/\b(epoch|watermark|nextPiece|fences)(\W*)\d+/g, '$1$2'),
      )
    }
  }

  test.each<[string, Spec['fence'], FaultKind, string[]]>([
    ['reconnect', 'exit', 'lost connection', ['write 1 has landed', 'FAULT c1 breaks']],
    ['restart', 'exit', 'crash of prefill', ['write 1 has landed', 'FAULT prefill dies']],
    ['restart', 'exit', 'crash of decode', ['write 1 has landed', 'FAULT decode dies']],
    ['freeze', 'exit', 'freeze of decode', ['write 1 has landed', 'FAULT decode stands still']],
    ['engine', 'engine', 'failed write', ['prefill writes', 'FAULT write 1 fails']],
    [
      'recycle',
      'engine',
      'no settling',
      ['prefill writes', 'FAULT write 1 fails and never', 'decode has a new', 'prefill has a new'],
    ],
  ])(
    'a pair that has recovered (%s, fence %s: %s) is as one that nothing has hit, but for names and numbers that count up',
    (_, fence, kind, wanted) => {
      const calm = statesAtRest(fence, [], [])
      const recovered = statesAtRest(fence, [kind], wanted)
      expect(calm.size).toBeGreaterThan(1)
      expect([...recovered].filter((text) => calm.has(text))).not.toEqual([])
    },
  )
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
