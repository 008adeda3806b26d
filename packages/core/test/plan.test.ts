import fc from 'fast-check'
import { crc32 } from 'node:zlib'
import { expect, test } from 'vitest'
import { blockWidth, groupWidth, laneWidth, type Memory, type TransferPlan } from '@kvx/contract'
import { checkLayout, type Layout, type Part, type Tensor } from '../src/layout/index.ts'
import {
  checkCovered,
  checkFit,
  groupPages,
  checksumJob,
  pageChecksums,
  Planner,
  planTransfer,
} from '../src/plan/index.ts'

/** A valid layout with one region, its tensors one behind the other in a given order with gaps. */
function makeLayout(options: {
  pageTokens: number
  layers: number
  heads: number
  held?: readonly [number, number]
  headBytes: number
  order: Tensor['order']
  pages: Record<string, number>
  parts: readonly Part[]
  gap: number
  reverse: boolean
}): Layout {
  const held = options.held ?? ([0, options.heads] as const)
  const pageBytes = options.pageTokens * (held[1] - held[0]) * options.headBytes
  let base = options.gap
  const tensors: Tensor[] = []
  const layers = Array.from({ length: options.layers }, (_, layer) => layer)
  for (const [component, pages] of Object.entries(options.pages)) {
    for (const layer of options.reverse ? layers.reverse() : layers) {
      for (const part of options.parts) {
        const { headBytes, order } = options
        tensors.push({
          component,
          layer,
          part,
          dtype: 'f16',
          region: 0,
          base,
          pageBytes,
          heads: held,
          headBytes,
          order,
        })
        base += pages * pageBytes + options.gap
      }
    }
  }
  const { pageTokens, heads, pages } = options
  const layout = { model: 'm', pageTokens, layers: options.layers, heads, pages, tensors }
  checkLayout(layout, [base])
  return layout
}

const regionBytes = (layout: Layout): number =>
  Math.max(
    ...layout.tensors.map(
      ({ component, base, pageBytes }) => base + (layout.pages[component] ?? 0) * pageBytes,
    ),
  )

const byteOf = (
  tensor: Tensor,
  pageTokens: number,
  page: number,
  token: number,
  head: number,
  byte: number,
): number => {
  const heads = tensor.heads[1] - tensor.heads[0]
  const at = head - tensor.heads[0]
  // head-major is [head][dim][token]: with one-byte dimensions, dim comes before token.
  const inPage =
    tensor.order === 'token-major'
      ? (token * heads + at) * tensor.headBytes + byte
      : (at * tensor.headBytes + byte) * pageTokens + token
  return tensor.base + page * tensor.pageBytes + inPage
}

interface Part1 {
  component: string
  layers?: readonly [number, number]
  sourcePages: Int32Array
  destinationPages: Int32Array
}

/** What should be copied, byte by byte from the meaning of the layouts: destination offset → source offset. */
function reference(
  source: Layout,
  destination: Layout,
  parts: readonly Part1[],
): Map<number, number> {
  const copies = new Map<number, number>()
  for (const { component, layers, sourcePages, destinationPages } of parts) {
    for (const to of destination.tensors) {
      if (to.component !== component) continue
      if (layers !== undefined && (to.layer < layers[0] || to.layer >= layers[1])) continue
      for (const from of source.tensors) {
        if (from.component !== component || from.layer !== to.layer || from.part !== to.part)
          continue
        for (let head = to.heads[0]; head < to.heads[1]; head += 1) {
          if (head < from.heads[0] || head >= from.heads[1]) continue
          sourcePages.forEach((sourcePage, i) => {
            for (let token = 0; token < source.pageTokens; token += 1) {
              for (let byte = 0; byte < to.headBytes; byte += 1) {
                copies.set(
                  byteOf(to, source.pageTokens, destinationPages[i] ?? 0, token, head, byte),
                  byteOf(from, source.pageTokens, sourcePage, token, head, byte),
                )
              }
            }
          })
        }
      }
    }
  }
  return copies
}

/** What a plan copies, from the words of the contract; fails when a byte is written twice. */
function expand({ lanes, groups, blocks }: TransferPlan): Map<number, number> {
  const copies = new Map<number, number>()
  const row = (array: ArrayLike<number>, width: number, i: number) =>
    Array.from({ length: width }, (_, field) => array[i * width + field] ?? NaN)
  for (let b = 0; b < blocks.length / blockWidth; b += 1) {
    const [firstGroup = 0, endGroup = 0, firstLane = 0, endLane = 0] = row(blocks, blockWidth, b)
    for (let l = firstLane; l < endLane; l += 1) {
      const [
        ,
        ,
        fromBase = 0,
        toBase = 0,
        fromPageBytes = 0,
        toPageBytes = 0,
        bytes = 0,
        runs = 0,
        fromStride = 0,
        toStride = 0,
      ] = row(lanes, laneWidth, l)
      for (let g = firstGroup; g < endGroup; g += 1) {
        const [fromPage = 0, toPage = 0, count = 0] = row(groups, groupWidth, g)
        for (let p = 0; p < count; p += 1) {
          for (let k = 0; k < runs; k += 1) {
            for (let byte = 0; byte < bytes; byte += 1) {
              const to = toBase + (toPage + p) * toPageBytes + k * toStride + byte
              if (copies.has(to)) throw new Error(`byte ${to} is written twice`)
              copies.set(to, fromBase + (fromPage + p) * fromPageBytes + k * fromStride + byte)
            }
          }
        }
      }
    }
  }
  return copies
}

const headRange = (heads: number) =>
  fc
    .tuple(fc.nat(heads - 1), fc.nat(heads - 1))
    .map(([a, b]) => [Math.min(a, b), Math.max(a, b) + 1] as const)

/** Two layouts of one model with any head ranges, and pages of both components. */
const scenario = fc
  .record({
    pageTokens: fc.integer({ min: 1, max: 3 }),
    layers: fc.integer({ min: 1, max: 3 }),
    heads: fc.integer({ min: 1, max: 4 }),
    headBytes: fc.integer({ min: 1, max: 3 }),
    order: fc.constantFrom('token-major' as const, 'head-major' as const),
    parts: fc.constantFrom(['k', 'v'] as const, ['v', 'k'] as const, ['latent'] as const),
    sourcePages: fc.integer({ min: 1, max: 8 }),
    destinationPages: fc.integer({ min: 1, max: 8 }),
    gaps: fc.tuple(fc.nat(5), fc.nat(5)),
    reverse: fc.boolean(),
  })
  .chain((base) => {
    const side = (pages: number, gap: number, reverse: boolean) =>
      headRange(base.heads).map((held) =>
        makeLayout({ ...base, held, pages: { kv: pages, swa: pages }, gap, reverse }),
      )
    const most = Math.min(base.sourcePages, base.destinationPages)
    const pages = (count: number, length: number) =>
      fc.shuffledSubarray(
        Array.from({ length: count }, (_, i) => i),
        { minLength: length, maxLength: length },
      )
    const part = (component: string) =>
      fc.nat(most).chain((length) =>
        fc.record({
          component: fc.constant(component),
          layers: fc.option(
            fc
              .tuple(fc.nat(base.layers), fc.nat(base.layers))
              .map(([a, b]) => [Math.min(a, b), Math.max(a, b)] as const),
            { nil: undefined },
          ),
          sourcePages: fc
            .oneof(
              pages(base.sourcePages, length),
              fc.constant(Array.from({ length }, (_, i) => i)),
            )
            .map((list) => Int32Array.from(list)),
          destinationPages: pages(base.destinationPages, length).map((list) =>
            Int32Array.from(list),
          ),
        }),
      )
    return fc.record({
      source: side(base.sourcePages, base.gaps[0], base.reverse),
      destination: side(base.destinationPages, base.gaps[1], false),
      parts: fc.tuple(part('kv'), part('swa')),
    })
  })

const shareHeads = (source: Layout, destination: Layout): boolean => {
  const a = source.tensors[0]?.heads ?? [0, 0]
  const b = destination.tensors[0]?.heads ?? [0, 0]
  return Math.max(a[0], b[0]) < Math.min(a[1], b[1])
}

test('a plan moves exactly the bytes that a byte-by-byte reference moves, each once', () => {
  fc.assert(
    fc.property(scenario, ({ source, destination, parts }) => {
      fc.pre(shareHeads(source, destination))
      const planner = new Planner(source, destination)
      const planned = expand(planner.plan(parts))
      const wanted = reference(
        source,
        destination,
        parts.map(({ layers, ...rest }) => (layers === undefined ? rest : { ...rest, layers })),
      )
      expect([...planned].sort(([a], [b]) => a - b)).toEqual([...wanted].sort(([a], [b]) => a - b))
      const bytes = parts.reduce(
        (sum, part) =>
          sum + part.sourcePages.length * planner.bytesPerPage(part.component, part.layers),
        0,
      )
      expect(bytes).toBe(wanted.size)
    }),
    { numRuns: 400 },
  )
})

test('equal head ranges move as one run per page', () => {
  const layout = makeLayout({
    pageTokens: 16,
    layers: 2,
    heads: 3,
    headBytes: 128,
    order: 'token-major',
    pages: { kv: 8 },
    parts: ['k', 'v'],
    gap: 0,
    reverse: false,
  })
  const { lanes } = planTransfer({ source: layout, destination: layout, parts: [] })
  expect(lanes).toHaveLength(4 * laneWidth)
  for (let lane = 0; lane < 4; lane += 1) {
    expect([...lanes.subarray(lane * laneWidth + 4, (lane + 1) * laneWidth)]).toEqual([
      6_144, 6_144, 6_144, 1, 0, 0,
    ])
  }
})

test('groups join what is consecutive on both sides, and only that', () => {
  const group = (source: number[], destination: number[]) => {
    const rows = new Int32Array(source.length * groupWidth)
    return [
      ...rows.subarray(0, groupPages(Int32Array.from(source), Int32Array.from(destination), rows)),
    ]
  }
  expect(group([], [])).toEqual([])
  expect(group([3, 4, 5], [0, 1, 2])).toEqual([3, 0, 3])
  expect(group([3, 4, 6], [0, 1, 2])).toEqual([3, 0, 2, 6, 2, 1])
  expect(group([3, 4, 5], [0, 2, 3])).toEqual([3, 0, 1, 4, 2, 2])
  expect(group([5, 4, 3], [2, 1, 0])).toEqual([5, 2, 1, 4, 1, 1, 3, 0, 1])
  expect(group([0, 0], [5, 6])).toEqual([0, 5, 1, 0, 6, 1])
})

test('groups hold every pair of pages once, in order, and are as few as possible', () => {
  const page = fc.nat(6)
  fc.assert(
    fc.property(fc.array(fc.tuple(page, page)), (pairs) => {
      const rows = new Int32Array(pairs.length * groupWidth)
      const end = groupPages(
        Int32Array.from(pairs, ([from]) => from),
        Int32Array.from(pairs, ([, to]) => to),
        rows,
      )
      const unfolded: number[][] = []
      for (let row = 0; row < end; row += groupWidth) {
        for (let p = 0; p < (rows[row + 2] ?? 0); p += 1)
          unfolded.push([(rows[row] ?? 0) + p, (rows[row + 1] ?? 0) + p])
      }
      expect(unfolded).toEqual(pairs)
      const breaks = pairs.filter(
        ([from, to], i) =>
          i === 0 || from !== (pairs[i - 1]?.[0] ?? 0) + 1 || to !== (pairs[i - 1]?.[1] ?? 0) + 1,
      )
      expect(end / groupWidth).toBe(breaks.length)
    }),
  )
})

const plain: Layout = {
  ...makeLayout({
    pageTokens: 4,
    layers: 4,
    heads: 2,
    headBytes: 4,
    order: 'token-major',
    pages: { kv: 8 },
    parts: ['k', 'v'],
    gap: 0,
    reverse: false,
  }),
  settings: { 'RoPE factors': 'short' },
}
const pages = (...list: number[]) => Int32Array.from(list)

test.each<[string, Partial<Part1>, string]>([
  [
    'lists of different length',
    { sourcePages: pages(1, 2), destinationPages: pages(1) },
    '2 source pages were paired with 1 destination pages.',
  ],
  [
    'a source page that does not exist',
    { sourcePages: pages(8) },
    'The source page 8 does not exist',
  ],
  [
    'a negative destination page',
    { destinationPages: pages(-1) },
    'The destination page -1 does not exist',
  ],
  ['an unknown component', { component: 'mamba' }, "no tensor of the component 'mamba'"],
  ['layers beyond the model', { layers: [0, 5] }, 'The layers 0 to 5 are no range of the 4 layers'],
  ['layers in the wrong order', { layers: [2, 1] }, 'The layers 2 to 1'],
])('%s are refused', (_, changes, text) => {
  const part = { component: 'kv', sourcePages: pages(0), destinationPages: pages(0), ...changes }
  expect(() => planTransfer({ source: plain, destination: plain, parts: [part] })).toThrow(
    expect.objectContaining({
      code: 'ERR_KVX_PLAN_INVALID',
      message: expect.stringContaining(text) as string,
    }),
  )
})

const other = (changes: Partial<Layout>, tensorChanges: Partial<Tensor> = {}): Layout => ({
  ...plain,
  ...changes,
  tensors: (changes.tensors ?? plain.tensors).map((tensor) => ({ ...tensor, ...tensorChanges })),
})

test('layouts fit whatever their addresses and page counts are', () => {
  const moved = {
    ...makeLayout({
      pageTokens: 4,
      layers: 4,
      heads: 2,
      headBytes: 4,
      order: 'token-major',
      pages: { kv: 3 },
      parts: ['v', 'k'],
      gap: 7,
      reverse: true,
    }),
    settings: plain.settings ?? {},
  }
  checkFit(plain, plain)
  checkFit(plain, moved)
  checkFit(moved, plain)
})

test('a decode rank that holds some of the heads or layers fits', () => {
  checkFit(plain, other({}, { heads: [1, 2] }))
  checkFit(plain, other({ tensors: plain.tensors.filter(({ layer }) => layer < 2) }))
})

test.each<[string, Layout, string, string]>([
  [
    'model',
    other({ model: 'n' }),
    'ERR_KVX_LAYOUT_MISMATCH',
    'The models differ: prefill has m, decode has n. Load the same model on both sides; a file that should be the same is damaged on one of them.',
  ],
  [
    'digest of the model',
    other({ model: '0123456789abcdef'.repeat(4) }),
    'ERR_KVX_LAYOUT_MISMATCH',
    'The models differ: prefill has m, decode has 0123456789ab…. Load the same model on both sides; a file that should be the same is damaged on one of them.',
  ],
  [
    'setting',
    other({ settings: { 'RoPE factors': 'long' } }),
    'ERR_KVX_LAYOUT_MISMATCH',
    "The setting 'RoPE factors' differs: prefill has short, decode has long.",
  ],
  [
    'setting that only one side has',
    other({ settings: { 'RoPE factors': 'short', 'cache scale': '2' } }),
    'ERR_KVX_LAYOUT_MISMATCH',
    "The setting 'cache scale' differs: prefill has none, decode has 2.",
  ],
  [
    'page size',
    other({ pageTokens: 16 }),
    'ERR_KVX_PAGE_SIZE_MISMATCH',
    'The page sizes differ: prefill has 4 tokens, decode has 16 tokens.',
  ],
  [
    'number of layers',
    other({ layers: 5 }),
    'ERR_KVX_LAYOUT_MISMATCH',
    'The numbers of layers differ: prefill has 4, decode has 5.',
  ],
  [
    'number of heads',
    other({ heads: 4 }),
    'ERR_KVX_LAYOUT_MISMATCH',
    'The numbers of KV heads differ: prefill has 2, decode has 4.',
  ],
  [
    'dtype',
    other({}, { dtype: 'q8_0' }),
    'ERR_KVX_LAYOUT_MISMATCH',
    'The dtypes of kv layer 0 k differ: prefill has f16, decode has q8_0.',
  ],
  [
    'head size',
    other({}, { headBytes: 8 }),
    'ERR_KVX_LAYOUT_MISMATCH',
    'The head sizes of kv layer 0 k differ: prefill has 4 bytes, decode has 8 bytes.',
  ],
  [
    'order',
    other({}, { order: 'head-major' }),
    'ERR_KVX_LAYOUT_MISMATCH',
    'The orders within a page of kv layer 0 k differ: prefill has token-major, decode has head-major.',
  ],
])(
  'another %s does not fit, and the sentence names both values',
  (_, destination, code, message) => {
    expect(() => {
      checkFit(plain, destination)
    }).toThrow(expect.objectContaining({ code, message }))
  },
)

const first = other({}, { heads: [0, 1] })
const second = other({}, { heads: [1, 2] })

test.each([
  ['no rank holds', [], 'Prefill lacks some of kv layer 0 k', 'hold none'],
  ['some ranks lack', [second], 'Prefill lacks some of kv layer 0 k', 'hold 1 to 1'],
  ['two ranks both send', [first, plain], 'Prefill sends some twice of kv layer 0 k', '0 to 1'],
  ['a component is missing', [other({}, { component: 'swa' })], 'Prefill lacks some of kv', 'none'],
])('what %s is not covered, and the sentence says what', (_, sources, ...texts) => {
  for (const text of texts) {
    expect(() => {
      checkCovered(sources, plain)
    }).toThrow(
      expect.objectContaining({
        code: 'ERR_KVX_LAYOUT_MISMATCH',
        message: expect.stringContaining(text) as string,
      }),
    )
  }
})

test('ranks cover a destination when together they hold every head of every layer once', () => {
  checkCovered([plain], plain)
  checkCovered([second, first], plain)
  const layers = (low: number, high: number) =>
    other({ tensors: plain.tensors.filter(({ layer }) => layer >= low && layer < high) })
  checkCovered([layers(0, 1), layers(1, plain.layers)], plain)
})

test('a source that holds more than the destination needs covers it', () => {
  checkCovered([plain], first)
})

function memoryOf(bytes: Uint8Array): Memory {
  return {
    address: 0n,
    bytes: bytes.length,
    kind: 'cpu',
    device: 0,
    view: (offset, length) => bytes.subarray(offset, offset + length),
  }
}

test('both sides compute the same checksums, each from its own pages, and any moved byte counts', () => {
  fc.assert(
    fc.property(
      scenario,
      fc.infiniteStream(fc.nat(255)),
      fc.nat(),
      ({ source, destination, parts: [part] }, random, flip) => {
        fc.pre(shareHeads(source, destination) && part.sourcePages.length > 0)
        const from = Uint8Array.from({ length: regionBytes(source) }, () => random.next().value)
        const to = Uint8Array.from({ length: regionBytes(destination) }, () => random.next().value)
        const planner = new Planner(source, destination)
        const copies = expand(planner.plan([part]))
        fc.pre(copies.size > 0)
        for (const [at, origin] of copies) to[at] = from[origin] ?? 0
        const { component, layers } = part
        const sums = (side: 'source' | 'destination') =>
          pageChecksums(
            checksumJob({
              planner,
              side,
              component,
              layers,
              pages: side === 'source' ? part.sourcePages : part.destinationPages,
            }),
            [memoryOf(side === 'source' ? from : to)],
          )
        const sent = sums('source')
        expect(sent).toHaveLength(part.sourcePages.length)
        expect(sums('destination')).toEqual(sent)

        const moved = [...copies.keys()]
        const victim = moved[flip % moved.length] ?? 0
        to[victim] = (to[victim] ?? 0) ^ 1
        const different = sums('destination').filter((sum, i) => sum !== sent[i])
        expect(different).toHaveLength(1)
        to[victim] = (to[victim] ?? 0) ^ 1

        const untouched = to.findIndex((_, at) => !copies.has(at))
        if (untouched >= 0) to[untouched] = (to[untouched] ?? 0) ^ 1
        expect(sums('destination')).toEqual(sent)
      },
    ),
    { numRuns: 200 },
  )
})

test('the checksum of a page is the CRC-32 of its bytes, layer after layer', () => {
  const bytes = Uint8Array.from({ length: regionBytes(plain) }, (_, i) => (i * 31) % 251)
  const sums = pageChecksums(
    checksumJob({
      planner: new Planner(plain, plain),
      side: 'source',
      component: 'kv',
      layers: [1, 2],
      pages: pages(5),
    }),
    [memoryOf(bytes)],
  )
  const of = (part: Part) => {
    const base =
      plain.tensors.find((tensor) => tensor.layer === 1 && tensor.part === part)?.base ?? 0
    return bytes.subarray(base + 5 * 32, base + 6 * 32)
  }
  expect([...sums]).toEqual([crc32(Buffer.concat([of('k'), of('v')]))])
})

test('memory that cannot be viewed cannot be checked, and the error says so', () => {
  const memory: Memory = { address: 0n, bytes: 1_024, kind: 'hip', device: 0 }
  expect(() =>
    pageChecksums(
      checksumJob({
        planner: new Planner(plain, plain),
        side: 'source',
        component: 'kv',
        pages: pages(0),
      }),
      [memory],
    ),
  ).toThrow(expect.objectContaining({ code: 'ERR_KVX_INVALID_OPTION' }))
})
