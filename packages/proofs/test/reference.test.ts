/** The reference is right by itself: numbers worked out by hand, SGLang's tables, and moves with one thing wrong. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type {
  CacheShape,
  ComponentShape,
  PageOrder,
  Place,
  Rank,
  TensorPlace,
  TensorShape,
} from '@kvx/core/bytes'
import {
  addressOf,
  expectedCopies,
  firstNeeded,
  heldTokens,
  rubbish,
  unitsOf,
  unserved,
  verify,
  type Expected,
  type Move,
  type Party,
  type Wanted,
} from '../src/bytes/reference.ts'

const alone: Rank = {
  ...{ tp: 0, tpSize: 1, pp: 0, ppSize: 1, cp: 0, cpSize: 1, dp: 0, dpSize: 1 },
  context: 'all',
  stages: [0, 2],
}

interface Setting {
  readonly pageTokens?: number
  readonly order?: PageOrder
  /** Page (or slot) i of the request is page `pages[i]` of the rank. Default: from 1 on, every second one. */
  readonly pages?: readonly (number | undefined)[]
}

const many = 64

/** A rank that keeps its tensors one after another in one region, with pages padded by 3 bytes. */
function party(shape: CacheShape, rank: Rank, tokens: number, setting: Setting = {}): Party {
  const { pageTokens = 4, order = 'NHD' } = setting
  const components: Record<string, Place['components'][string]> = {}
  const tensors: TensorPlace[] = []
  const pages: Record<string, readonly (number | undefined)[]> = {}
  let base = 5
  for (const { name, addressed, tensors: all } of shape.components) {
    const held = all.filter(
      ({ layer }) => layer >= rank.stages[rank.pp]! && layer < rank.stages[rank.pp + 1]!,
    )
    components[name] = addressed === 'tokens' ? { pageTokens, pages: many } : { pages: many }
    for (const { layer, part, ...tensor } of held) {
      const { tokensPerRow = 1, rows = 1, unitBytes } = tensor
      const rowsOfPage = addressed === 'tokens' ? pageTokens / tokensPerRow : rows
      const pageBytes = rowsOfPage * unitsOf(rank, tensor).length * unitBytes + 3
      tensors.push({ component: name, layer, part, region: 0, base, pageBytes, order })
      base += many * pageBytes
    }
    const count =
      addressed === 'tokens'
        ? Math.ceil(heldTokens(rank, tokens, pageTokens).length / pageTokens)
        : 1
    pages[name] = setting.pages ?? Array.from({ length: count }, (_, i) => 1 + 2 * i)
  }
  return { rank, place: { components, tensors }, pages }
}

function attention(units: number, more: Partial<TensorShape> = {}): ComponentShape {
  const tensor = { dtype: 'u8', units, unitBytes: 2, ...more }
  const tensors = [0, 1].flatMap((layer) => ['k', 'v'].map((part) => ({ layer, part, ...tensor })))
  return { name: 'kv', addressed: 'tokens', tensors }
}

const shapeOf = (...components: ComponentShape[]): CacheShape => ({
  model: 'm',
  layers: 2,
  components,
})

const ranksOf = (tpSize: number, more: Partial<Rank> = {}): Rank[] =>
  Array.from({ length: tpSize }, (_, tp) => ({ ...alone, tp, tpSize, ...more }))

function whole(tokens: number, more: Partial<Wanted> = {}): Wanted {
  return { tokens, prefixTokens: 0, from: 0, end: tokens, layers: [0, 2], state: true, ...more }
}

/** The prefill ranks that hold bytes which a decode rank needs. */
function sendersOf({ destinations, holders }: Expected, decode: number): number[] {
  const all = [...destinations[decode]!.needed.values()].flatMap((one) => holders.get(one) ?? [])
  return [...new Set(all)].sort((a, b) => a - b)
}

function expectedOf(
  shape: CacheShape,
  prefill: readonly Rank[],
  decode: readonly Rank[],
  wanted: Wanted,
  settings: { prefill?: Setting; decode?: Setting } = {},
): Expected {
  const parties = (ranks: readonly Rank[], setting: Setting = {}) =>
    ranks.map((rank) => party(shape, rank, wanted.tokens, setting))
  return expectedCopies(
    shape,
    parties(prefill, settings.prefill),
    parties(decode, settings.decode),
    wanted,
  )
}

/** Every needed byte by itself, from one of those who hold it. */
function copyEach({ sources, destinations, holders }: Expected, pick = 0): Move[] {
  const at = sources.map((source) => new Map([...source].map(([address, is]) => [is, address])))
  return destinations.flatMap(({ needed }, toRank) =>
    [...needed].map(([address, meaning]) => {
      const list = holders.get(meaning) ?? []
      const fromRank = list[pick % list.length] ?? -1
      const source = at[fromRank]?.get(meaning) ?? -1
      return {
        fromRank,
        ...{ sourceRegion: Math.floor(source / 2 ** 40), sourceByte: source % 2 ** 40 },
        toRank,
        ...{ destinationRegion: Math.floor(address / 2 ** 40), destinationByte: address % 2 ** 40 },
        length: 1,
      }
    }),
  )
}

describe('where a byte lies', () => {
  const shape = (more: Partial<TensorShape> = {}): CacheShape =>
    shapeOf({
      name: 'kv',
      addressed: 'tokens',
      tensors: [
        { layer: 0, part: 'k', dtype: 'f16', units: 2, unitBytes: 4, elementBytes: 2, ...more },
      ],
    })
  const bytesOf = (order: PageOrder, rank = alone): [number, number][] => {
    const place: Place = {
      components: { kv: { pageTokens: 2, pages: 9 } },
      tensors: [
        { component: 'kv', layer: 0, part: 'k', region: 3, base: 100, pageBytes: 20, order },
      ],
    }
    const one = { rank, place, pages: { kv: [4, 2] } }
    const [source] = expectedCopies(shape(), [one], [], whole(3)).sources
    return [...source!].map(([address, meaning]) => [address - addressOf(3, 0), meaning])
  }
  /** Number of token t, head h, byte b of the undivided tensor of 3 tokens. */
  const number = (t: number, h: number, b: number) => (t * 2 + h) * 4 + b

  test('NHD: token after token, within it head after head', () => {
    const at = new Map(bytesOf('NHD'))
    expect(at.size).toBe(32)
    expect(at.get(100 + 4 * 20 + 0)).toBe(number(0, 0, 0))
    expect(at.get(100 + 4 * 20 + 8 + 4 + 3)).toBe(number(1, 1, 3))
    expect(at.get(100 + 2 * 20 + 4)).toBe(number(2, 1, 0))
    expect(at.get(100 + 2 * 20 + 8)).toBe(rubbish)
    expect(at.get(100 + 4 * 20 + 16)).toBeUndefined()
  })

  test('HND: head after head, within it token after token', () => {
    const at = new Map(bytesOf('HND'))
    expect(at.get(100 + 4 * 20 + 4)).toBe(number(1, 0, 0))
    expect(at.get(100 + 4 * 20 + 8 + 1)).toBe(number(0, 1, 1))
    expect(at.get(100 + 2 * 20 + 8 + 4)).toBe(rubbish)
  })

  test('HDN: head after head, within it element after element, within that token after token', () => {
    const at = new Map(bytesOf('HDN'))
    expect(at.get(100 + 4 * 20 + 0)).toBe(number(0, 0, 0))
    expect(at.get(100 + 4 * 20 + 2)).toBe(number(1, 0, 0))
    expect(at.get(100 + 4 * 20 + 4)).toBe(number(0, 0, 2))
    expect(at.get(100 + 4 * 20 + 8 + 4 + 2 + 1)).toBe(number(1, 1, 3))
  })

  test('a rank with one of two heads has rows of half the size', () => {
    const at = new Map(bytesOf('NHD', { ...alone, tp: 1, tpSize: 2 }))
    expect(at.size).toBe(16)
    expect(at.get(100 + 4 * 20 + 4)).toBe(number(1, 1, 0))
  })
})

test('tensors that overlap are refused', () => {
  const shape = shapeOf(attention(1))
  const one = party(shape, alone, 4)
  const tensors = one.place.tensors.map((tensor) => ({ ...tensor, base: 0 }))
  const clash = { ...one, place: { ...one.place, tensors } }
  expect(() => expectedCopies(shape, [clash], [one], whole(4))).toThrow('two tensors')
  expect(() => expectedCopies(shape, [one], [clash], whole(4))).toThrow('two tensors')
})

describe('the table of ranks, of heads and of a replicated latent', () => {
  const sizes = [1, 2, 4, 8]
  const pairs = sizes.flatMap((p) => sizes.map((d) => [p, d] as const))
  const heads = shapeOf(attention(8))
  const latent = shapeOf(attention(1))

  test.each(pairs)('MHA with 8 heads, %i prefill and %i decode ranks', (p, d) => {
    const expected = expectedOf(heads, ranksOf(p), ranksOf(d), whole(3))
    for (let r = 0; r < d; r++) {
      const target =
        p === d
          ? [r % p]
          : d > p
            ? [Math.floor(r / (d / p))]
            : Array.from({ length: p / d }, (_, i) => r * (p / d) + i)
      expect(sendersOf(expected, r)).toEqual(target)
    }
    // A prefill rank waits for d/p decode ranks, and a decode rank for p/d.
    for (let i = 0; i < p; i++) {
      const takers = ranksOf(d).filter((_, r) => sendersOf(expected, r).includes(i))
      expect(takers.length).toBe(Math.max(1, d / p))
    }
  })

  test.each(pairs)('MLA, %i prefill and %i decode ranks: each may send all', (p, d) => {
    const expected = expectedOf(latent, ranksOf(p), ranksOf(d), whole(3))
    for (let r = 0; r < d; r++) {
      expect(sendersOf(expected, r)).toEqual(ranksOf(p).map((_, i) => i))
      for (const one of expected.destinations[r]!.needed.values())
        expect(expected.holders.get(one)?.length).toBe(p)
    }
  })

  test('equal pipeline stages pair up; a decode without stages hears all of them', () => {
    const stages = (ppSize: number, cuts: readonly number[]) =>
      Array.from({ length: ppSize }, (_, pp) => ({ ...alone, pp, ppSize, stages: cuts }))
    const two = stages(2, [0, 1, 2])
    const equal = expectedOf(heads, two, two, whole(3))
    expect([sendersOf(equal, 0), sendersOf(equal, 1)]).toEqual([[0], [1]])
    expect(sendersOf(expectedOf(heads, two, [alone], whole(3)), 0)).toEqual([0, 1])
    const one = expectedOf(heads, [alone], two, whole(3))
    expect([sendersOf(one, 0), sendersOf(one, 1)]).toEqual([[0], [0]])
  })
})

describe('the formulas of head slices', () => {
  const total = [1, 2, 4, 8]
  const sizes = [1, 2, 4, 8]
  const cases = total.flatMap((heads) =>
    sizes.flatMap((p) => sizes.flatMap((d) => (p === d ? [] : [[heads, p, d] as const]))),
  )

  test.each(cases)('%i heads, %i prefill and %i decode ranks', (heads, p, d) => {
    const sourceHeads = Math.max(1, Math.floor(heads / p))
    const targetHeads = Math.max(1, Math.floor(heads / d))
    for (const rank of ranksOf(p)) {
      for (const target of ranksOf(d)) {
        const held = unitsOf(rank, { units: heads })
        const needed = unitsOf(target, { units: heads })
        expect([held.length, needed.length]).toEqual([sourceHeads, targetHeads])
        const common = held.filter((head) => needed.includes(head))
        if (common.length === 0) continue
        const [first] = common as [number]
        const repeat = (ranks: number) => Math.max(1, Math.floor(ranks / heads))
        if (p > d) {
          expect(held.indexOf(first)).toBe(0)
          expect(common.length).toBe(sourceHeads)
          expect(needed.indexOf(first)).toBe(
            (Math.floor(rank.tp / repeat(p)) * sourceHeads) % targetHeads,
          )
        } else {
          expect(needed.indexOf(first)).toBe(0)
          expect(common.length).toBe(targetHeads)
          expect(held.indexOf(first)).toBe(
            (Math.floor(target.tp / repeat(d)) * targetHeads) % sourceHeads,
          )
        }
      }
    }
  })

  test('1 prefill rank, 4 decode ranks, 2 heads: decode ranks 0 and 1 take head 0, 2 and 3 head 1', () => {
    const shape = shapeOf(attention(2))
    const expected = expectedOf(shape, ranksOf(1), ranksOf(4), whole(1))
    const headsOf = (decode: number) =>
      new Set(
        [...expected.destinations[decode]!.needed.values()].map(
          (one) => /unit (\d)/.exec(expected.explain(one))?.[1],
        ),
      )
    expect([0, 1, 2, 3].map((r) => [...headsOf(r)])).toEqual([['0'], ['0'], ['1'], ['1']])
  })

  test('bytes of a head slice lie one token apart', () => {
    const shape = shapeOf({
      name: 'kv',
      addressed: 'tokens',
      tensors: [{ layer: 0, part: 'k', dtype: 'u8', units: 4, unitBytes: 2 }],
    })
    const moves = copyEach(expectedOf(shape, ranksOf(1), ranksOf(2), whole(4)))
    // Decode rank 1 takes heads 2 and 3: the second half of each token of 8 bytes, in page 1 of 35 bytes.
    const starts = moves
      .filter(({ toRank }) => toRank === 1)
      .map(({ sourceByte, destinationByte }) => [sourceByte - 5 - 35, destinationByte - 5 - 19])
    expect(starts.slice(0, 5)).toEqual([
      [4, 0],
      [5, 1],
      [6, 2],
      [7, 3],
      [12, 4],
    ])
  })
})

describe('which tokens', () => {
  const cp = (cpSize: number, context: Rank['context']): Rank[] =>
    Array.from({ length: cpSize }, (_, at) => ({ ...alone, cp: at, cpSize, context }))

  test('pages are dealt out evenly, the first ranks having one more', () => {
    const held = cp(3, 'contiguous').map((rank) => heldTokens(rank, 19, 4))
    expect(held.map((list) => [list[0], list.at(-1)])).toEqual([
      [0, 7],
      [8, 15],
      [16, 18],
    ])
    expect(heldTokens(cp(3, 'contiguous')[2]!, 8, 4)).toEqual([])
    expect(heldTokens(cp(3, 'all')[2]!, 3, 4)).toEqual([0, 1, 2])
  })

  test('dealt out one by one, token i lies on rank i mod n at slot i div n', () => {
    const ranks = cp(3, { interleave: 1 })
    for (let token = 0; token < 20; token++)
      expect(heldTokens(ranks[token % 3]!, 20, 4)[Math.floor(token / 3)]).toBe(token)
    expect(heldTokens(cp(2, { interleave: 2 })[1]!, 11, 4)).toEqual([2, 3, 6, 7, 10])
  })

  test.each([
    ['contiguous', { interleave: 2 }],
    [{ interleave: 1 }, 'contiguous'],
    ['all', { interleave: 3 }],
  ] as const)('context parallel ranks %j serve those that are %j', (prefill, decode) => {
    const shape = shapeOf(attention(2))
    const expected = expectedOf(shape, cp(4, prefill), cp(2, decode), whole(21))
    expect(unserved(expected)).toEqual([])
    expect(verify(copyEach(expected), expected)).toEqual([])
    const needed = expected.destinations.reduce((sum, one) => sum + one.needed.size, 0)
    expect(needed).toBe(21 * 2 * 2 * 2 * 2)
  })

  test('page sizes may differ on the two sides', () => {
    const shape = shapeOf(attention(2))
    for (const [p, d] of [
      [2, 8],
      [8, 2],
    ] as const) {
      const sizes = { prefill: { pageTokens: p }, decode: { pageTokens: d, order: 'HND' as const } }
      const expected = expectedOf(shape, ranksOf(2), ranksOf(1), whole(19), sizes)
      expect(verify(copyEach(expected), expected)).toEqual([])
    }
  })

  test('a prefix is not needed, but may be written with what belongs there where a page has more', () => {
    const shape = shapeOf(attention(1))
    const wanted = whole(10, { prefixTokens: 6 })
    const decode = { pages: [undefined, 3, 5] }
    const expected = expectedOf(shape, [alone], [alone], wanted, { decode })
    const [{ needed, allowed }] = expected.destinations as [Expected['destinations'][number]]
    const rows = (map: ReadonlyMap<number, number>) =>
      new Set(
        [...map.values()].map((one) => /row (\d+)/.exec(expected.explain(one))?.[1] ?? 'rubbish'),
      )
    expect(rows(needed)).toEqual(new Set(['6', '7', '8', '9']))
    expect(rows(allowed)).toEqual(new Set(['4', '5', 'rubbish']))
  })

  test('a full hit needs nothing of the cache, and allows nothing, but the state', () => {
    const state: ComponentShape = {
      name: 'mamba',
      addressed: 'request',
      tensors: [{ layer: 0, part: 'ssm', dtype: 'u8', units: 2, unitBytes: 2 }],
    }
    const shape = shapeOf(attention(1), state)
    const expected = expectedOf(shape, [alone], [alone], whole(10, { prefixTokens: 10 }))
    const [{ needed, allowed }] = expected.destinations as [Expected['destinations'][number]]
    expect([needed.size, allowed.size]).toEqual([4, 0])
    expect(expected.explain([...needed.values()][0]!)).toMatch(/^mamba layer 0 ssm/)
  })

  test('a window is needed from the beginning of its first page, and nothing of the prefix', () => {
    const swa: ComponentShape = { ...attention(1), name: 'swa', window: 5 }
    const shape = shapeOf(swa)
    const first = (tokens: number, prefixTokens = 0, rank = alone) =>
      firstNeeded(swa, party(shape, rank, tokens), whole(tokens, { prefixTokens }))
    expect(first(4)).toBe(0)
    expect(first(9)).toBe(4)
    expect(first(12)).toBe(4)
    expect(first(13)).toBe(8)
    expect(first(13, 6)).toBe(8)
    expect(first(13, 10)).toBe(10)
    // Of the odd tokens 1, 3, …, 19 the first in the window of 5 is 15, in the page of 9, 11, 13, 15.
    const [, odd] = cp(2, { interleave: 1 })
    expect(first(20, 0, odd)).toBe(9)
    const expected = expectedOf(shape, [alone], [alone], whole(13))
    // Pages 0 and 1 of the request must not be touched.
    const pages = [
      ...expected.destinations[0]!.needed.keys(),
      ...expected.destinations[0]!.allowed.keys(),
    ]
    expect(new Set(pages.map((at) => Math.floor(((at - 5) % (many * 11)) / 11)))).toEqual(
      new Set([5, 7]),
    )
  })

  test('a row for several tokens is needed by the chunk with the last of them', () => {
    const scales = shapeOf(attention(1, { tokensPerRow: 4 }))
    const rows = (from: number, end: number) => {
      const expected = expectedOf(scales, [alone], [alone], whole(10, { from, end }), {
        prefill: { pageTokens: 8 },
        decode: { pageTokens: 8 },
      })
      return new Set(
        [...expected.destinations[0]!.needed.values()].map(
          (one) => /row (\d)/.exec(expected.explain(one))?.[1],
        ),
      )
    }
    expect([rows(0, 3), rows(0, 6), rows(6, 10), rows(0, 10)]).toEqual([
      new Set(),
      new Set(['0']),
      new Set(['1', '2']),
      new Set(['0', '1', '2']),
    ])
  })

  test('tokens of one row on different ranks are refused', () => {
    const scales = shapeOf(attention(1, { tokensPerRow: 4 }))
    const ranks = cp(2, { interleave: 2 })
    expect(() => expectedOf(scales, ranks, [alone], whole(10))).toThrow('share no row')
  })

  test('only the layers of the range are wanted', () => {
    const shape = shapeOf(attention(1))
    for (const layer of [0, 1]) {
      const layers = [layer, layer + 1] as const
      const expected = expectedOf(shape, [alone], [alone], whole(4, { layers }))
      for (const one of expected.destinations[0]!.needed.values())
        expect(expected.explain(one)).toMatch(`layer ${String(layer)} `)
      expect(expected.destinations[0]!.needed.size).toBe(4 * 2 * 2)
    }
  })
})

describe('state of a request', () => {
  /** Mamba: the convolution's x is divided on its own, B and C in groups, and the SSM state by heads. */
  const mamba: ComponentShape = {
    name: 'mamba',
    addressed: 'request',
    tensors: [
      { layer: 0, part: 'conv.x', dtype: 'u8', units: 8, unitBytes: 1, rows: 3 },
      { layer: 0, part: 'conv.B', dtype: 'u8', units: 2, unitBytes: 2, rows: 3 },
      { layer: 0, part: 'ssm', dtype: 'u8', units: 4, unitBytes: 5 },
    ],
  }
  const shape = shapeOf(mamba)

  test.each([
    [2, 4],
    [4, 2],
    [1, 4],
    [8, 2],
  ])('of %i ranks is divided among %i, each part on its own', (p, d) => {
    const setting = { pages: [7] }
    const settings = { prefill: setting, decode: { pages: [2] } }
    const expected = expectedOf(shape, ranksOf(p), ranksOf(d), whole(9), settings)
    expect(unserved(expected)).toEqual([])
    expect(verify(copyEach(expected), expected)).toEqual([])
    const bytes = expected.destinations.map(({ needed }) => needed.size)
    const each = 3 * (8 / d) + 3 * 2 * Math.max(1, 2 / d) + 5 * Math.max(1, 4 / d)
    expect(bytes).toEqual(Array.from({ length: d }, () => each))
  })

  test('slot after slot and row after row', () => {
    const settings = { prefill: { pages: [7, 4] }, decode: { pages: [2, 5] } }
    const expected = expectedOf(shape, [alone], ranksOf(2), whole(9), settings)
    expect(verify(copyEach(expected), expected)).toEqual([])
    const [{ needed }] = expected.destinations as [Expected['destinations'][number]]
    // The rows of conv.x in slot 5 are rows 3 to 5, of 4 bytes, after 5 bytes and 5 slots of 15.
    const at = (row: number) => expected.explain(needed.get(5 + 5 * 15 + row * 4)!)
    expect([0, 2].map(at)).toEqual([
      'mamba layer 0 conv.x, row 3, unit 0, byte 0',
      'mamba layer 0 conv.x, row 5, unit 0, byte 0',
    ])
  })

  test('is not wanted by a chunk that says so, whatever its tokens', () => {
    const [one] = expectedOf(shape, [alone], [alone], whole(9, { state: false })).destinations
    expect([one?.needed.size, one?.allowed.size]).toEqual([0, 0])
  })
})

describe('what is wrong with moves is told', () => {
  const shape = shapeOf(attention(4))
  const wanted = whole(10, { prefixTokens: 5 })
  const decode = { pages: [9, 3, 5] }
  const expected = expectedOf(shape, ranksOf(4), ranksOf(2), wanted, { decode })
  const moves = copyEach(expected)
  const [first] = moves as [Move]
  const page = 4 * 2 * 2 + 3
  const at = (ordinal: number, byte: number) => 5 + decode.pages[ordinal]! * page + byte

  test('nothing, when every byte is moved once', () => {
    expect(moves.length).toBe(5 * 4 * 2 * 2 * 2)
    expect(verify(moves, expected)).toEqual([])
  })

  test('nothing, when bytes that follow each other move together', () => {
    const joined: Move[] = []
    for (const move of moves) {
      const last = joined.at(-1)
      if (
        last?.fromRank === move.fromRank &&
        last.toRank === move.toRank &&
        last.sourceByte + last.length === move.sourceByte &&
        last.destinationByte + last.length === move.destinationByte
      )
        joined[joined.length - 1] = { ...last, length: last.length + 1 }
      else joined.push(move)
    }
    expect(joined.length).toBeLessThan(moves.length)
    expect(verify(joined, expected)).toEqual([])
  })

  test('a byte that is missing', () => {
    for (let i = 0; i < moves.length; i++) {
      const wrong = verify(moves.toSpliced(i, 1), expected)
      expect(wrong).toEqual([expect.stringMatching(/^missing: decode rank/)])
    }
  })

  test('a byte that is written twice, also by another rank', () => {
    expect(verify([...moves, first], expected)).toEqual([
      expect.stringMatching(/^written 2 times: decode rank 0/),
    ])
    const latent = expectedOf(shapeOf(attention(1)), ranksOf(2), ranksOf(1), whole(1))
    expect(verify([...copyEach(latent, 0), ...copyEach(latent, 1)], latent).length).toBe(8)
    expect(verify(copyEach(latent, 1), latent)).toEqual([])
  })

  test('a byte of another head', () => {
    const wrong = verify([{ ...first, fromRank: 1 }, ...moves.slice(1)], expected)
    expect(wrong).toEqual([expect.stringMatching(/^wrong byte: .* unit 0, .* unit 1, /)])
  })

  test('a byte of another token, layer or part', () => {
    const twoTokens = { ...first, sourceByte: first.sourceByte + 2 }
    expect(verify([twoTokens, ...moves.slice(1)], expected)[0]).toMatch(/^wrong byte/)
    const part = { ...first, sourceByte: first.sourceByte + many * (4 * 2 + 3) }
    expect(verify([part, ...moves.slice(1)], expected)[0]).toMatch(/ k, .* v, /)
    const layer = { ...first, sourceByte: first.sourceByte + 2 * many * (4 * 2 + 3) }
    expect(verify([layer, ...moves.slice(1)], expected)[0]).toMatch(/layer 0 .* layer 1 /)
  })

  test('a byte in a page of the prefix, between pages, and in no page', () => {
    for (const destinationByte of [at(0, 0), at(1, 16), at(1, page), 0])
      expect(verify([...moves, { ...first, destinationByte }], expected)).toEqual([
        expect.stringMatching(/^outside: decode rank 0/),
      ])
    expect(verify([...moves, { ...first, destinationRegion: 1 }], expected)[0]).toMatch(/^outside/)
  })

  test('a byte that is read from outside the pages of the request', () => {
    expect(verify([{ ...first, sourceByte: 0 }, ...moves.slice(1)], expected)).toEqual([
      expect.stringMatching(/^outside: prefill rank 0/),
    ])
  })

  test('a token of the prefix in a page that has more is written with what belongs there, or not at all', () => {
    // Token 4, head 0, byte 0 at decode; at prefill in page 3 of rank 0.
    const right = { ...first, sourceByte: 5 + 3 * (4 * 2 + 3), destinationByte: at(1, 0) }
    expect(verify([...moves, right, right], expected)).toEqual([])
    expect(verify([...moves, { ...right, sourceByte: right.sourceByte + 1 }], expected)).toEqual([
      expect.stringMatching(/^wrong byte/),
    ])
  })

  test('nothing, when rubbish behind the last token is written over with other rubbish', () => {
    // Slots 2 and 3 of the last page.
    const behind = { ...first, destinationByte: at(2, 2 * 4), length: 1 }
    expect(verify([...moves, behind, behind], expected)).toEqual([])
  })

  test('a rank that does not exist', () => {
    expect(verify([...moves, { ...first, fromRank: 4 }], expected)[0]).toMatch(/no prefill rank 4/)
  })

  test('a byte that nobody at prefill holds is told in words', () => {
    const short = expectedOf(shape, ranksOf(4).slice(0, 3), ranksOf(2), wanted, { decode })
    expect(unserved(short)[0]).toMatch(/^decode rank 1: kv layer 0 k, row 5, unit 3, byte 0$/)
  })
})

describe('for whatever ranks, places and tokens', () => {
  interface Case {
    readonly shape: CacheShape
    readonly prefill: readonly Party[]
    readonly decode: readonly Party[]
    readonly wanted: Wanted
    /** Chunks of the tokens: where each but the first begins. */
    readonly cuts: readonly number[]
  }

  const layers = 2
  const scaled = { tokensPerRow: 4, unitBytes: 1 }
  const component: fc.Arbitrary<ComponentShape> = fc
    .record({
      name: fc.constantFrom('kv', 'draft', 'scales', 'mamba'),
      units: fc.constantFrom(1, 2, 4),
      window: fc.option(fc.integer({ min: 1, max: 20 }), { nil: undefined }),
      every: fc.boolean(),
    })
    .map(({ name, units, window, every }) => ({
      name,
      addressed: name === 'mamba' ? 'request' : 'tokens',
      ...(window !== undefined && name !== 'mamba' ? { window } : {}),
      tensors: (every ? [0, 1] : [1]).flatMap((layer) =>
        ['a', 'b'].map((part) => ({
          ...{ layer, part, dtype: 'u8', units, unitBytes: 4, elementBytes: 2 },
          ...(name === 'scales' ? { ...scaled, elementBytes: 1 } : {}),
          ...(name === 'mamba' ? { rows: 2 } : {}),
        })),
      ),
    }))

  const context: fc.Arbitrary<Rank['context']> = fc.oneof(
    fc.constantFrom('all' as const, 'contiguous' as const),
    fc.constantFrom(4, 8).map((interleave) => ({ interleave })),
  )
  const ranks: fc.Arbitrary<Rank[]> = fc
    .record({
      tpSize: fc.constantFrom(1, 2, 4),
      ppSize: fc.constantFrom(1, 1, 2),
      cpSize: fc.constantFrom(1, 1, 2, 3),
      context,
    })
    .map(({ tpSize, ppSize, cpSize, context: kind }) => {
      const stages = ppSize === 1 ? [0, layers] : [0, 1, layers]
      const list: Rank[] = []
      for (let pp = 0; pp < ppSize; pp++)
        for (let cp = 0; cp < cpSize; cp++)
          for (let tp = 0; tp < tpSize; tp++)
            list.push({
              ...{ tp, tpSize, pp, ppSize, cp, cpSize },
              ...{ dp: 0, dpSize: 1, context: kind, stages },
            })
      return list
    })
  const side = fc.record({
    ranks,
    pageTokens: fc.constantFrom(4, 8, 16),
    order: fc.constantFrom<PageOrder>('NHD', 'HND', 'HDN'),
  })

  const anyCase: fc.Arbitrary<Case> = fc
    .record({
      components: fc.uniqueArray(component, {
        selector: ({ name }) => name,
        minLength: 1,
        maxLength: 3,
      }),
      tokens: fc.integer({ min: 1, max: 40 }),
      prefix: fc.nat(),
      cuts: fc.array(fc.nat(), { maxLength: 3 }),
      sides: fc.tuple(side, side),
    })
    .map(({ components, tokens, prefix, cuts, sides }) => {
      const shape = shapeOf(...components)
      const [prefill, decode] = sides.map(({ ranks: all, ...setting }) =>
        all.map((rank) => party(shape, rank, tokens, setting)),
      ) as [Party[], Party[]]
      const prefixTokens = prefix % (tokens + 1)
      return {
        ...{ shape, prefill, decode },
        wanted: whole(tokens, { prefixTokens }),
        cuts: [...new Set(cuts.map((at) => at % tokens))].filter((at) => at > 0),
      }
    })

  const expectedIn = ({ shape, prefill, decode }: Case, wanted: Wanted) =>
    expectedCopies(shape, prefill, decode, wanted)

  test('somebody holds what is needed, and whoever sends it, it is right', () => {
    fc.assert(
      fc.property(anyCase, fc.nat(), (one, pick) => {
        const expected = expectedIn(one, one.wanted)
        expect(unserved(expected)).toEqual([])
        expect(verify(copyEach(expected, pick), expected)).toEqual([])
      }),
      { numRuns: 300 },
    )
  })

  test('chunks and layers need together what the whole needs, nothing twice', () => {
    fc.assert(
      fc.property(anyCase, (one) => {
        const { wanted } = one
        const bounds = [0, ...one.cuts.toSorted((a, b) => a - b), wanted.tokens]
        const all = expectedIn(one, wanted).destinations.map(({ needed }) => needed)
        const parts = all.map(() => new Map<number, number>())
        for (const [i, from] of bounds.slice(0, -1).entries()) {
          for (const layer of [1, 0]) {
            const part = { ...wanted, from, end: bounds[i + 1]!, state: i === 0 }
            const chunk = expectedIn(one, { ...part, layers: [layer, layer + 1] })
            for (const [rank, { needed }] of chunk.destinations.entries()) {
              for (const [address, meaning] of needed) {
                if (parts[rank]!.has(address)) expect.fail('needed twice')
                parts[rank]!.set(address, meaning)
              }
            }
          }
        }
        const sorted = (maps: readonly ReadonlyMap<number, number>[]) =>
          maps.map((map) => [...map].sort(([a], [b]) => a - b))
        expect(sorted(parts)).toEqual(sorted(all))
      }),
      { numRuns: 150 },
    )
  })

  test('decode gets every byte of the cache that it does not have', () => {
    fc.assert(
      fc.property(anyCase, (one) => {
        const plain = { ...one.wanted, prefixTokens: 0 }
        const components = one.shape.components.map(({ name, addressed, tensors }) => {
          return { name, addressed, tensors }
        })
        const shape = { ...one.shape, components }
        const expected = expectedCopies(shape, one.prefill, one.decode, plain)
        const got = new Set(expected.destinations.flatMap(({ needed }) => [...needed.values()]))
        const bytes = components.flatMap(({ addressed, tensors }) =>
          tensors.map(({ units, unitBytes, rows = 1, tokensPerRow = 1 }) => {
            const count = addressed === 'request' ? rows : Math.ceil(plain.tokens / tokensPerRow)
            return count * units * unitBytes
          }),
        )
        expect(got.size).toBe(bytes.reduce((sum, each) => sum + each, 0))
      }),
      { numRuns: 150 },
    )
  })

  test('one thing that is wrong is told', () => {
    const kinds = ['missing', 'twice', 'elsewhere', 'other source'] as const
    fc.assert(
      fc.property(anyCase, fc.nat(), fc.constantFrom(...kinds), (one, at, kind) => {
        const expected = expectedIn(one, one.wanted)
        const moves = copyEach(expected)
        if (moves.length === 0) return
        const i = at % moves.length
        const move = moves[i]!
        const meaning = (byte: number) => expected.sources[move.fromRank]!.get(byte)
        switch (kind) {
          case 'missing':
            moves.splice(i, 1)
            break
          case 'twice':
            moves.push(move)
            break
          case 'elsewhere':
            moves[i] = { ...move, destinationByte: move.destinationByte + 10_000_000 }
            break
          case 'other source': {
            const sourceByte = move.sourceByte + 1
            if (meaning(sourceByte) === meaning(move.sourceByte)) return
            moves[i] = { ...move, sourceByte }
          }
        }
        expect(verify(moves, expected).length).toBeGreaterThan(0)
      }),
      { numRuns: 300 },
    )
  })
})
