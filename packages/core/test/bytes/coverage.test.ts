import * as fc from 'fast-check'
import { expect, test } from 'vitest'
import {
  cover,
  emptyCoverage,
  firstCovered,
  firstMissing,
  type Coverage,
  type Rectangle,
} from '../../src/share/index.ts'

const [layers, tokens] = [6, 12]
const range = (most: number) =>
  fc.tuple(fc.nat(most), fc.nat(most)).map(([a, b]) => [Math.min(a, b), Math.max(a, b)] as const)
const rectangle: fc.Arbitrary<Rectangle> = fc.record({
  layers: range(layers),
  tokens: range(tokens),
})

const cellsOf = (one: Rectangle) => {
  const cells: string[] = []
  for (let layer = one.layers[0]; layer < one.layers[1]; layer++) {
    for (let token = one.tokens[0]; token < one.tokens[1]; token++) cells.push(`${layer}/${token}`)
  }
  return cells
}

test('a coverage knows of every token of every layer whether it has come', () => {
  fc.assert(
    fc.property(fc.array(rectangle, { maxLength: 8 }), rectangle, (parts, asked) => {
      const known = new Set<string>()
      let coverage: Coverage = emptyCoverage([0, layers])
      for (const part of parts) {
        coverage = cover(coverage, part)
        for (const cell of cellsOf(part)) known.add(cell)
      }
      const cells = cellsOf(asked)
      const covered = firstCovered(coverage, asked)
      const missing = firstMissing(coverage, asked)
      expect(covered !== undefined).toBe(cells.some((cell) => known.has(cell)))
      expect(missing !== undefined).toBe(cells.some((cell) => !known.has(cell)))
      if (covered)
        expect(cellsOf(covered).every((cell) => known.has(cell) && cells.includes(cell))).toBe(true)
      if (missing)
        expect(cellsOf(missing).some((cell) => known.has(cell) || !cells.includes(cell))).toBe(
          false,
        )
    }),
    { numRuns: 5_000 },
  )
})

test('layers that come one by one, and chunks one after the other, leave one rectangle', () => {
  let coverage = emptyCoverage([0, 80])
  for (let chunk = 0; chunk < 20; chunk++) {
    for (let layer = 79; layer >= 0; layer--) {
      coverage = cover(coverage, {
        layers: [layer, layer + 1],
        tokens: [chunk * 512, (chunk + 1) * 512],
      })
    }
  }
  expect(coverage).toEqual([{ layers: [0, 80], tokens: [[0, 10_240]] }])
})
