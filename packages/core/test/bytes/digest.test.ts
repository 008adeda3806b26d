/** What a digest of a cache tells, and what it does not depend on. That it is right for any two ranks is proved in proofs. */
import { digests, type Memory } from '@kvx/contract'
import { describe, expect, test } from 'vitest'
import {
  addDigests,
  differingLayers,
  digestJob,
  layerDigests,
  Pairing,
  type RankCache,
} from '../../src/plan/index.ts'
import type { PageOrder } from '../../src/place/index.ts'
import { makeRank } from '../../src/share/index.ts'
import type { CacheShape } from '../../src/shape/index.ts'

// Two layers of 4 heads of 8 bytes, and a state of 3 rows of 2 units.
const layers = 2
const shape: CacheShape = {
  model: 'm',
  layers,
  components: [
    {
      name: 'kv',
      addressed: 'tokens',
      tensors: [0, 1].map((layer) => {
        return { layer, part: 'k', dtype: 'u8', units: 4, unitBytes: 8, elementBytes: 2 }
      }),
    },
    {
      name: 'mamba',
      addressed: 'request',
      tensors: [{ layer: 0, part: 'ssm', dtype: 'u8', units: 2, unitBytes: 8, rows: 3 }],
    },
  ],
}

const pageTokens = 4
const tensorBytes = 8 * pageTokens * 4 * 8
const states = 2 * tensorBytes

function cacheOf(order: PageOrder = 'NHD'): RankCache {
  return {
    rank: makeRank(layers),
    place: {
      components: { kv: { pageTokens, pages: 8 }, mamba: { pages: 2 } },
      tensors: [
        ...[0, 1].map((layer) => ({
          ...{ component: 'kv', layer, part: 'k', region: 0, base: layer * tensorBytes },
          ...{ pageBytes: pageTokens * 4 * 8, order },
        })),
        {
          ...{ component: 'mamba', layer: 0, part: 'ssm', region: 0, base: states },
          ...{ pageBytes: 48, order: 'NHD' as const },
        },
      ],
    },
  }
}

const noise = () => Uint8Array.from({ length: states + 96 }, (_, i) => (i * i * 31 + i * 7) % 251)

const memoryOf = (bytes: Uint8Array): Memory => ({
  ...{ address: 0n, bytes: bytes.length, kind: 'cpu', device: 0 },
  view: (offset, length) => bytes.subarray(offset, offset + length),
})

const pages = Int32Array.of(5, 2, 3)
const prompt = { tokens: 10, prefix: 0 }
const pairing = new Pairing(shape, cacheOf(), cacheOf())

function digestOf(bytes: Uint8Array, component = 'kv', of = pairing, given = pages): Uint8Array {
  const options = { component, side: 'source', prompt, pages: given } as const
  return digests(digestJob(of, options).job, [memoryOf(bytes)])
}

function exchanged(a: number, b: number, length: number): Uint8Array {
  const bytes = noise()
  const kept = bytes.slice(a, a + length)
  bytes.copyWithin(a, b, b + length)
  bytes.set(kept, b)
  return bytes
}

/** Where a head of a token of the prompt lies, of the order `NHD`. */
const at = (layer: number, token: number, head = 0) =>
  layer * tensorBytes + ((pages[token >> 2]! * 4 + (token & 3)) * 4 + head) * 8

describe('two things of equal size that have changed places are noticed', () => {
  const before = digestOf(noise())

  test.each([
    ['rows of a page', at(0, 1), at(0, 2), 32],
    ['rows of two pages', at(0, 1), at(0, 9), 32],
    ['pages', at(0, 0), at(0, 4), 128],
    ['units of a row', at(0, 5, 1), at(0, 5, 3), 8],
    ['units of two rows', at(0, 5, 1), at(0, 6, 2), 8],
    ['words of a unit', at(0, 5), at(0, 5) + 4, 4],
  ])('%s', (_, a, b, length) => {
    const after = digestOf(exchanged(a, b, length))
    expect(differingLayers(Int32Array.of(0, 1), before, after)).toEqual([0])
  })

  test('layers', () => {
    const after = digestOf(exchanged(0, tensorBytes, tensorBytes))
    expect(differingLayers(Int32Array.of(0, 1), before, after)).toEqual([0, 1])
    // Even their sum tells it.
    const sum = (all: Uint8Array) => layerDigests(Int32Array.of(0, 0), all)
    expect(sum(after)).not.toEqual(sum(before))
  })

  test.each([
    ['rows of a slot', states + 48, states + 64, 16],
    ['units of a row of a slot', states + 48, states + 56, 8],
    ['slots', states, states + 48, 48],
  ])('%s', (_, a, b, length) => {
    const slots = Int32Array.of(1, 0)
    const [then, now] = [noise(), exchanged(a, b, length)].map((bytes) =>
      digestOf(bytes, 'mamba', pairing, slots),
    )
    expect(now).not.toEqual(then)
  })
})

test('what lies behind the last token of the prompt, and in pages of others, does not count', () => {
  const bytes = noise()
  bytes.fill(0, at(0, 10), at(0, 12))
  bytes.fill(0, 0, 2 * 128)
  expect(digestOf(bytes)).toEqual(digestOf(noise()))
  bytes[at(0, 9) + 31]! ^= 1
  expect(digestOf(bytes)).not.toEqual(digestOf(noise()))
})

test.each<PageOrder>(['HND', 'HDN'])(
  'a cache that is kept in the order %s has the digests of one in the order NHD',
  (order) => {
    const other = new Pairing(shape, cacheOf(order), cacheOf())
    const [from, to] = [noise(), noise().fill(0xee)]
    for (let layer = 0; layer < layers; layer++) {
      for (let token = 0; token < 10; token++) {
        const page = layer * tensorBytes + pages[token >> 2]! * 128
        const row = token & 3
        for (let head = 0; head < 4; head++) {
          for (let byte = 0; byte < 8; byte++) {
            const [element, rest] = [byte >> 1, byte & 1]
            const inPage =
              order === 'HND'
                ? (head * 4 + row) * 8 + byte
                : ((head * 4 + element) * 4 + row) * 2 + rest
            to[page + inPage] = from[at(layer, token, head) + byte]!
          }
        }
      }
    }
    expect(digestOf(to, 'kv', other)).toEqual(digestOf(from))
  },
)

test('a digest of chunks is the sum of theirs', () => {
  const options = { component: 'kv', side: 'source' } as const
  const memory = [memoryOf(noise())]
  const of = (tokens: number, prefix: number, given: Int32Array) =>
    digests(
      digestJob(pairing, { ...options, prompt: { tokens, prefix }, pages: given }).job,
      memory,
    )
  const [first, rest] = [of(4, 0, pages.slice(0, 1)), of(10, 4, pages.slice(1))]
  expect(addDigests(first, rest)).toEqual(of(10, 0, pages))
})

test('pages that follow one another are one run, and a full hit has none', () => {
  const options = { component: 'kv', side: 'destination', pages } as const
  const runs = (tokens: number, prefix: number, given = pages) => [
    ...digestJob(pairing, { ...options, prompt: { tokens, prefix }, pages: given }).job.runs,
  ]
  // Page, first token in it, tokens, first token.
  expect(runs(10, 0)).toEqual([...[5, 0, 4, 0], ...[2, 0, 6, 4]])
  expect(runs(10, 8, Int32Array.of(3))).toEqual([3, 0, 2, 8])
  expect(runs(10, 10, Int32Array.of())).toEqual([])
})

test('each tensor has its layer, and a table of its own only once for all requests', () => {
  const options = { component: 'kv', side: 'source', pages } as const
  const [one, other] = [10, 9].map((tokens) =>
    digestJob(pairing, { ...options, prompt: { tokens, prefix: 0 } }),
  )
  expect([...one!.layers]).toEqual([0, 1])
  expect(other!.job.tensors).toBe(one!.job.tensors)
})

test.each([
  ['kv', [5, 2], "The source has 2 pages of 'kv', and the one at position 2 is missing."],
  ['kv', [5, 2, 8], "The source page 8 does not exist: 'kv' has 8 there."],
  ['kv', [5, 2, -1], "The source page -1 does not exist: 'kv' has 8 there."],
  ['mamba', [2], "The source page 2 does not exist: 'mamba' has 2 there."],
  ['swa', [], "The two ranks share no tensor of the component 'swa'."],
])('a job of %s with the pages %j is refused', (component, list, why) => {
  const options = { component, side: 'source', prompt, pages: Int32Array.from(list) } as const
  expect(() => digestJob(pairing, options)).toThrow(
    expect.objectContaining({ code: 'ERR_KVX_PLAN_INVALID', message: why }) as Error,
  )
})

test('digests of another number of layers differ in all of them', () => {
  const three = new Uint8Array(48)
  expect(differingLayers(Int32Array.of(3, 3, 7), three, three)).toEqual([3, 7])
})
