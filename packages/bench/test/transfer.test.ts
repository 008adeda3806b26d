import { describe, expect, test } from 'vitest'
import {
  describeMismatch,
  fill,
  shapeOf,
  verify,
  type ModelName,
  type ShapeOptions,
} from '../src/index.ts'
import { neededBytes } from './support/needed.ts'
import { carry, disturbed, instance, type SideOptions } from './support/transfer.ts'

interface Case {
  readonly name: string
  readonly model: ModelName
  readonly shape: ShapeOptions
  readonly from: SideOptions
  readonly to: SideOptions
  readonly tokens?: number
  readonly prefix?: number
}

const tp = (tpSize: number, pageTokens = 16): SideOptions => ({ topology: { tpSize }, pageTokens })

const cases: Case[] = [
  { name: 'TP4 to TP2', model: 'llama-3.1-70b', shape: { layers: 3 }, from: tp(4), to: tp(2) },
  { name: 'TP2 to TP4', model: 'qwen3-32b', shape: { layers: 3 }, from: tp(2), to: tp(4) },
  {
    name: 'TP8 with 4 heads to TP2',
    ...{ model: 'qwen3-235b-a22b', shape: { layers: 3 }, from: tp(8), to: tp(2) },
  },
  {
    name: 'TP1 to TP8 with 4 heads',
    ...{ model: 'qwen3-235b-a22b', shape: { layers: 3 }, from: tp(1), to: tp(8) },
  },
  {
    name: 'MLA with its index, TP8 to TP4',
    model: 'deepseek-v3',
    shape: { layers: 5, index: true, dtype: 'fp8', draft: true },
    ...{ from: tp(8, 64), to: tp(4, 64) },
  },
  {
    name: 'PP2 with TP2 to TP2',
    ...{ model: 'llama-3.1-8b', shape: { layers: 4 } },
    from: { topology: { tpSize: 2, ppSize: 2 }, pageTokens: 16 },
    to: tp(2),
  },
  {
    name: 'three unequal stages to two',
    ...{ model: 'llama-3.1-8b', shape: { layers: 6 } },
    from: { topology: { stages: [0, 1, 4, 6] }, pageTokens: 16 },
    to: { topology: { ppSize: 2 }, pageTokens: 16 },
  },
  {
    name: 'CP2 in runs to one rank',
    ...{ model: 'llama-3.1-8b', shape: { layers: 2 } },
    from: { topology: { cpSize: 2, context: 'contiguous' }, pageTokens: 16 },
    to: tp(1),
  },
  {
    name: 'CP4 dealt out in turn to CP2',
    ...{ model: 'llama-3.1-8b', shape: { layers: 2 } },
    from: { topology: { cpSize: 4, context: { interleave: 4 } }, pageTokens: 16 },
    to: { topology: { cpSize: 2, context: { interleave: 1 } }, pageTokens: 16 },
  },
  {
    name: 'CP2 where all have everything, TP2 to TP4',
    ...{ model: 'nemotron-h-8b', shape: { layers: 9 } },
    from: { topology: { cpSize: 2, tpSize: 2, context: 'all' }, pageTokens: 16 },
    to: tp(4),
  },
  {
    name: 'pages of 16 to pages of 64',
    ...{ model: 'llama-3.1-8b', shape: { layers: 2 }, from: tp(1, 16), to: tp(1, 64) },
  },
  {
    name: 'pages of 64 to pages of 16, unequal TP',
    ...{ model: 'llama-3.1-8b', shape: { layers: 2 }, from: tp(2, 64), to: tp(1, 16) },
  },
  {
    name: 'windows, TP4 to TP2',
    ...{ model: 'gpt-oss-120b', shape: { layers: 4 }, from: tp(4), to: tp(2) },
    tokens: 333,
  },
  {
    name: 'Mamba state, TP2 to TP8',
    ...{ model: 'nemotron-h-8b', shape: { layers: 9 }, from: tp(2), to: tp(8) },
  },
  {
    name: 'FP8 with scales, TP4 to TP2, pages of 16 to 32',
    model: 'llama-3.1-70b',
    shape: { layers: 2, dtype: 'fp8' },
    ...{ from: tp(4, 16), to: tp(2, 32) },
  },
  {
    name: 'a draft layer with 2 heads, TP4 to TP8',
    model: 'llama-3.1-70b',
    shape: { layers: 2, draft: { kvHeads: 2, headDim: 64 } },
    ...{ from: tp(4), to: tp(8) },
  },
  {
    name: 'values stored [dim][token], to [token][dim], in pages of all layers',
    ...{ model: 'llama-3.1-8b', shape: { layers: 2 } },
    from: { ...tp(2), order: 'HDN', tensorsPerRegion: 1 },
    to: { ...tp(1), order: 'NHD', interleaved: true },
  },
  {
    name: 'a prefix that decode has',
    ...{ model: 'gpt-oss-120b', shape: { layers: 4 }, from: tp(2), to: tp(4) },
    ...{ tokens: 300, prefix: 208 },
  },
]

const seed = 77

describe.each(cases)('$name', ({ model, shape: options, from, to, tokens = 150, prefix = 0 }) => {
  const content = { seed, tokens }
  const shape = shapeOf(model, options)
  const prefill = instance(shape, tokens, from)
  const filled = prefill.map((rank) => fill(rank, content))
  const transferred = () => {
    const decode = instance(shape, tokens, to)
    carry(prefill, decode, { tokens, prefix }, [37, 111])
    return decode
  }

  test('every byte that a decode rank needs is there, and no other page was touched', () => {
    expect(Math.min(...filled)).toBeGreaterThan(0)
    for (const rank of transferred()) {
      const { bytes, mismatch } = verify(rank, content, { prefix })
      expect(mismatch && describeMismatch(mismatch)).toBe(undefined)
      expect(bytes).toBe(neededBytes(rank, tokens, prefix))
      expect(disturbed(rank)).toEqual([])
    }
  })

  test('a rank that sends nothing is noticed', () => {
    const decode = instance(shape, tokens, to)
    const silent = prefill.map((rank, i) =>
      i === 0 ? { ...rank, memory: rank.memory.map((bytes) => bytes.slice().fill(0)) } : rank,
    )
    carry(silent, decode, { tokens, prefix })
    const wrong = decode.filter((rank) => verify(rank, content, { prefix }).mismatch !== undefined)
    expect(wrong.length).toBeGreaterThan(0)
  })

  test('a byte of another request is none of this one', () => {
    const [first] = transferred()
    expect(verify(first!, { seed: seed + 1, tokens }, { prefix }).mismatch).toBeDefined()
  })
})

test('one flipped byte is named by its coordinates, and by where it lies', () => {
  const tokens = 150
  const shape = shapeOf('llama-3.1-70b', { layers: 3 })
  const prefill = instance(shape, tokens, tp(4))
  for (const rank of prefill) fill(rank, { seed, tokens })
  const decode = instance(shape, tokens, tp(2))
  carry(prefill, decode, { tokens, prefix: 0 })
  const { place, memory, pages } = decode[1]!

  // Token 85 is row 5 of the sixth page; unit 6 is the third of the four that rank 1 of 2 holds; 8 units of 256 bytes.
  const { base, pageBytes, region } = place.tensors.find(
    ({ layer, part }) => layer === 2 && part === 'v',
  )!
  const offset = base + pages.kv![5]! * pageBytes + 5 * (4 * 256) + 2 * 256 + 99
  const right = memory[region]![offset]!
  memory[region]![offset] = right ^ 0x10
  const { mismatch } = verify(decode[1]!, { seed, tokens })
  expect(mismatch).toEqual({
    ...{ component: 'kv', layer: 2, part: 'v', unit: 6, row: 85, byte: 99 },
    ...{ expected: right, found: right ^ 0x10, region, offset },
  })
  expect(describeMismatch(mismatch!)).toMatch(
    /^kv layer 2 v, unit 6, row 85, byte 99 must be 0x[0-9a-f]{2}, got 0x[0-9a-f]{2} \(byte \d+ of region 0\)$/,
  )
})

test('every byte of a cache that is flipped is noticed, in every order within a page', () => {
  const tokens = 5
  const shape = shapeOf('deepseek-v3', { layers: 1, index: true, dtype: 'fp8' })
  for (const order of ['NHD', 'HND', 'HDN'] as const) {
    const [rank] = instance(shape, tokens, { topology: {}, pageTokens: 2, order })
    fill(rank!, { seed, tokens })
    let noticed = 0
    for (const memory of rank!.memory) {
      for (let byte = 0; byte < memory.length; byte++) {
        memory[byte]! ^= 1
        const { mismatch } = verify(rank!, { seed, tokens })
        memory[byte]! ^= 1
        if (mismatch) {
          expect(mismatch.offset).toBe(byte)
          noticed++
        }
      }
    }
    expect(noticed).toBe(tokens * (656 + 132))
  }
})

test('a page that is needed and missing is named, not passed over', () => {
  const tokens = 40
  const shape = shapeOf('llama-3.1-8b', { layers: 1 })
  const [rank] = instance(shape, tokens, tp(1))
  const lacking = { ...rank!, pages: { kv: [0, -1, 1] } }
  expect(() => fill(lacking, { seed, tokens })).toThrow(
    'kv layer 0 k needs row 16, and the rank has no page for it.',
  )
})
