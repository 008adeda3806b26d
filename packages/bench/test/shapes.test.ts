import { describe, expect, test } from 'vitest'
import { checkPlace, checkShape, pageRows, type CacheShape } from '@kvx/core/bytes'
import { modelNames, placeOf, ranksOf, shapeOf, type ShapeOptions } from '../src/index.ts'

/** Bytes of one token, over all layers, if one rank held everything. */
function bytesPerToken({ components }: CacheShape, only?: string): number {
  return components
    .filter(({ name, addressed }) => addressed === 'tokens' && (only ?? name) === name)
    .flatMap(({ tensors }) => tensors)
    .reduce((sum, { units, unitBytes, tokensPerRow = 1 }) => {
      return sum + (units * unitBytes) / tokensPerRow
    }, 0)
}

/** Bytes of the state of one request. */
function bytesPerRequest({ components }: CacheShape): number {
  return components
    .filter(({ addressed }) => addressed === 'request')
    .flatMap(({ tensors }) => tensors)
    .reduce((sum, { units, unitBytes, rows = 1 }) => sum + units * unitBytes * rows, 0)
}

describe.each(modelNames)('%s', (name) => {
  const options: ShapeOptions[] = (['bf16', 'fp8'] as const).flatMap((dtype) => [
    { dtype },
    { dtype, draft: { kvHeads: 2, headDim: 64 } },
  ])
  test.each(options)('has a cache that every rank of TP 1, 2, 4 and 8 can hold: %j', (option) => {
    const shape = shapeOf(name, option)
    checkShape(shape)
    const places = [1, 2, 4, 8].flatMap((tpSize) =>
      ranksOf({ tpSize }, shape.layers).flatMap((rank) =>
        [
          { pageTokens: 16, pages: 5 },
          { pageTokens: 64, pages: 3, slots: 2, interleaved: true, order: 'HND' as const },
          { pageTokens: 64, pages: 2, tensorsPerRegion: 1, order: 'HDN' as const },
        ].map((place) => {
          const { place: made, regionBytes } = placeOf(shape, rank, place)
          checkPlace(shape, rank, made, regionBytes)
          return regionBytes.reduce((sum, bytes) => sum + bytes, 0)
        }),
      ),
    )
    expect(places).toHaveLength(45)
  })
})

test('the bytes of a token are those that are known of the models', () => {
  expect(bytesPerToken(shapeOf('llama-3.1-8b'))).toBe(131_072)
  expect(bytesPerToken(shapeOf('llama-3.1-70b'))).toBe(327_680)
  expect(bytesPerToken(shapeOf('qwen3-32b'))).toBe(262_144)
  expect(bytesPerToken(shapeOf('qwen3-235b-a22b'))).toBe(192_512)
  expect(bytesPerToken(shapeOf('deepseek-v3'))).toBe(70_272)
  expect(bytesPerToken(shapeOf('deepseek-v3', { dtype: 'fp8' }))).toBe(35_136)
  expect(bytesPerToken(shapeOf('gpt-oss-120b'))).toBe(73_728)
  expect(bytesPerToken(shapeOf('gpt-oss-120b'), 'swa')).toBe(36_864)
  expect(bytesPerToken(shapeOf('nemotron-h-8b'))).toBe(16_384)
})

test('sparse attention in FP8 has packed rows of 656 bytes, and an index of 132 bytes beside each', () => {
  const shape = shapeOf('deepseek-v3', { dtype: 'fp8', index: true })
  expect(bytesPerToken(shape, 'kv')).toBe(61 * 656)
  expect(bytesPerToken(shape, 'index')).toBe(61 * 132)
})

test('FP8 halves the keys and values, and adds one scale for 16 tokens of each head', () => {
  const shape = shapeOf('llama-3.1-70b', { dtype: 'fp8' })
  expect(bytesPerToken(shape, 'kv')).toBe(163_840)
  expect(bytesPerToken(shape, 'kv.scales')).toBe((80 * 2 * 8 * 4) / 16)
})

test('the state of a Mamba model belongs to the request: 24 layers of a convolution over x, B and C and of FP32 numbers', () => {
  const channels = 128 * 64 + 2 * 8 * 128
  const layer = channels * 3 * 2 + 128 * 64 * 128 * 4
  expect(bytesPerRequest(shapeOf('nemotron-h-8b'))).toBe(24 * layer)
})

test('alternate layers of gpt-oss have a window of 128 tokens', () => {
  const { components } = shapeOf('gpt-oss-120b')
  const swa = components.find(({ name }) => name === 'swa')
  expect(swa?.window).toBe(128)
  expect(swa?.tensors.map(({ layer }) => layer).slice(0, 6)).toEqual([0, 0, 2, 2, 4, 4])
})

test('a draft layer comes after those of the model, with heads of its own', () => {
  const shape = shapeOf('llama-3.1-70b', { draft: { kvHeads: 2, headDim: 64 } })
  expect(shape.layers).toBe(81)
  const draft = shape.components.find(({ name }) => name === 'draft')
  expect(draft?.tensors).toMatchObject([
    { layer: 80, part: 'k', units: 2, unitBytes: 128 },
    { layer: 80, part: 'v', units: 2, unitBytes: 128 },
  ])
  expect(shapeOf('deepseek-v3', { draft: true }).layers).toBe(62)
})

test('what a model has not is refused by name', () => {
  expect(() => shapeOf('qwen3-32b', { index: true })).toThrow(
    'index is for models with a latent, and qwen3-32b has none.',
  )
  expect(() => shapeOf('qwen3-32b', { draft: true })).toThrow(
    'The table has no draft layer for qwen3-32b: give its kvHeads and headDim.',
  )
})

test('the regions of a rank hold its tensors and little else', () => {
  const shape = shapeOf('llama-3.1-8b')
  const [rank] = ranksOf({ tpSize: 4 }, shape.layers)
  const { place, regionBytes } = placeOf(shape, rank!, { pageTokens: 16, pages: 10 })
  expect(regionBytes).toEqual([(131_072 / 4) * 16 * 10])
  const rows = pageRows(place.components.kv!, {})
  expect(rows).toBe(16)
  expect(
    placeOf(shape, rank!, { pageTokens: 16, pages: 10, tensorsPerRegion: 1 }).regionBytes,
  ).toHaveLength(64)
})

test('an instance has a rank for each of its coordinates, and stages as they are given', () => {
  const ranks = ranksOf({ tpSize: 2, cpSize: 3, dpSize: 2, stages: [0, 5, 8] }, 8)
  expect(ranks).toHaveLength(24)
  expect(new Set(ranks.map(({ tp, pp, cp, dp }) => [tp, pp, cp, dp].join())).size).toBe(24)
  expect(ranks.at(-1)).toMatchObject({ ppSize: 2, stages: [0, 5, 8] })
})
