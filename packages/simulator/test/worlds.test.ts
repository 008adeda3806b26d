/** Do the worlds differ in what they are meant to differ in? */
import { expect, test } from 'vitest'
import { electedUnits } from '@kvx/core/bytes'
import type { Rank } from '@kvx/core'
import { runSchedule, type Shape } from '@kvx/simulator'

type Side = Shape['prefills'][number]

const shapes = Array.from({ length: 1_500 }, (_, seed) => runSchedule({ seed, actions: [] }).shape)

/** Schedules in which this is true of a prefill and a decode instance. */
function count(is: (prefill: Side, decode: Side, shape: Shape) => boolean): number {
  return shapes.filter((shape) => is(shape.prefills[0]!, shape.decodes[0]!, shape)).length
}

const rankOf = ({ ranks }: Side): Rank => ranks[0]!
const tensorsOf = ({ model }: Shape) => model.cache.components.flatMap(({ tensors }) => tensors)
const contextOf = (side: Side) => {
  const { cpSize, context } = rankOf(side)
  return cpSize === 1 ? 'none' : typeof context === 'string' ? context : 'interleaved'
}

test('tensor parallelism is unequal in both directions', () => {
  expect(count((p, d) => rankOf(p).tpSize > rankOf(d).tpSize)).toBeGreaterThan(50)
  expect(count((p, d) => rankOf(p).tpSize < rankOf(d).tpSize)).toBeGreaterThan(50)
})

test('some ranks hold copies of a unit, and some of these hold parts of another tensor', () => {
  const hasCopies = (side: Side, shape: Shape) =>
    tensorsOf(shape).some(({ units }) => units < rankOf(side).tpSize)
  const hasParts = (side: Side, shape: Shape) =>
    rankOf(side).tpSize > 1 && tensorsOf(shape).some(({ units }) => units >= rankOf(side).tpSize)
  for (const of of [(p: Side) => p, (_: Side, d: Side) => d]) {
    expect(count((p, d, shape) => hasCopies(of(p, d), shape))).toBeGreaterThan(50)
    expect(
      count((p, d, shape) => hasCopies(of(p, d), shape) && hasParts(of(p, d), shape)),
    ).toBeGreaterThan(15)
  }
})

test.each(['all', 'contiguous', 'interleaved'])(
  'both sides have context parallelism: %s',
  (kind) => {
    expect(count((p) => contextOf(p) === kind)).toBeGreaterThan(20)
    expect(count((_, d) => contextOf(d) === kind)).toBeGreaterThan(20)
  },
)

test('context parallelism is equal, unequal, and of unlike kinds', () => {
  const hasBoth = (p: Side, d: Side) => contextOf(p) !== 'none' && contextOf(d) !== 'none'
  expect(count((p, d) => hasBoth(p, d) && contextOf(p) === contextOf(d))).toBeGreaterThan(10)
  expect(count((p, d) => hasBoth(p, d) && contextOf(p) !== contextOf(d))).toBeGreaterThan(10)
  expect(count((p, d) => rankOf(p).cpSize !== rankOf(d).cpSize)).toBeGreaterThan(50)
})

test('pipeline stages are unlike on both sides', () => {
  const unlike = (p: Side, d: Side) => String(rankOf(p).stages) !== String(rankOf(d).stages)
  expect(count((p, d) => unlike(p, d))).toBeGreaterThan(100)
  expect(count((p, d) => unlike(p, d) && rankOf(p).ppSize === rankOf(d).ppSize)).toBeGreaterThan(5)
})

test('caches have several components: with a window, with state, with rows of several tokens', () => {
  const has = (is: (component: Shape['model']['cache']['components'][number]) => boolean) =>
    count((_p, _d, { model }) => model.cache.components.some(is))
  expect(count((_p, _d, { model }) => model.cache.components.length > 2)).toBeGreaterThan(100)
  expect(has(({ window }) => window !== undefined)).toBeGreaterThan(100)
  expect(has(({ addressed }) => addressed === 'request')).toBeGreaterThan(300)
  expect(
    has(({ tensors }) => tensors.some(({ tokensPerRow = 1 }) => tokensPerRow > 1)),
  ).toBeGreaterThan(100)
})

test('page sizes and the order within a page are unlike on both sides', () => {
  const unlike = (field: 'pageTokens' | 'orders') =>
    count((p, d) => p.keeping[field].kv !== d.keeping[field].kv)
  expect(unlike('pageTokens')).toBeGreaterThan(300)
  expect(unlike('orders')).toBeGreaterThan(300)
  // Neither divides the other.
  const isOdd = (a = 1, b = 1) => a % b !== 0 && b % a !== 0
  expect(count((p, d) => isOdd(p.keeping.pageTokens.kv, d.keeping.pageTokens.kv))).toBeGreaterThan(
    30,
  )
})

test('some prefill ranks have nothing to send', () => {
  const isIdle = (prefill: Rank, { ranks }: Side, { model }: Shape) =>
    ranks.every((decode) =>
      model.cache.components.every((component) =>
        component.tensors.every(
          (tensor) => electedUnits(prefill, decode, component, tensor) === undefined,
        ),
      ),
    )
  expect(count((p, d, shape) => p.ranks.some((rank) => isIdle(rank, d, shape)))).toBeGreaterThan(10)
})

test('prefixes go from nothing to everything, and layers and state are written in any order', () => {
  const seeds = Array.from({ length: 200 }, (_, i) => i + 1)
  const lines = seeds.flatMap((seed) => runSchedule({ seed, traced: true }).trace)
  const found = (pattern: RegExp) =>
    lines.flatMap((line) => {
      const groups = pattern.exec(line)
      return groups ? [groups.slice(1).map(Number)] : []
    })
  const prefixes = found(/prefix (\d+) of (\d+) tokens/)
  expect(prefixes.filter(([prefix]) => prefix === 0).length).toBeGreaterThan(100)
  expect(prefixes.filter(([prefix, all]) => prefix! > 0 && prefix! < all!).length).toBeGreaterThan(
    50,
  )
  expect(prefixes.filter(([prefix, all]) => prefix === all).length).toBeGreaterThan(20)
  const writes = found(/writes tokens (\d+) to (\d+) of layers (\d+) to (\d+)/)
  expect(writes.filter(([first]) => first! > 0).length).toBeGreaterThan(100)
  expect(writes.filter(([, , low]) => low! > 0).length).toBeGreaterThan(100)
  expect(found(/writes the state of layers (\d+) to (\d+)/).length).toBeGreaterThan(20)
  expect(lines.some((line) => line.includes('finish() of room'))).toBe(true)
})
