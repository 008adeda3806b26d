import fc from 'fast-check'
import { expect, test } from 'vitest'
import { allocate } from '@kvx/native'
import { cacheOf } from '../src/cache.ts'
import { buildState, checkState, describeState, type Form, type Place } from '../src/state/blob.ts'
import { geometryOf, type AttentionCache, type Geometry } from '../src/state/geometry.ts'
import { checkPages, loadRows, pageRange, saveRows, type CachePages } from '../src/state/rows.ts'
import { naiveState } from './reference.ts'

const smollm2 = geometryOf('llama', {
  block_count: 30,
  embedding_length: 576,
  attention: { head_count: 9, head_count_kv: 3 },
})

const dim = fc.integer({ min: 1, max: 5 })
const layerLists = (layers: number) => fc.subarray(Array.from({ length: layers }, (_, i) => i))
const attention = (component: 'kv' | 'swa', layers: number) =>
  fc
    .record({
      kind: fc.constant('attention' as const),
      component: fc.constant(component),
      ...(component === 'swa' && { window: fc.integer({ min: 1, max: 24 }) }),
      layers: layerLists(layers),
      heads: fc.integer({ min: 1, max: 3 }),
      keyDim: dim,
      valueDim: fc.integer({ min: 0, max: 4 }),
      keyDtype: fc.constantFrom('f16' as const, 'q8_0' as const),
    })
    // A block of q8_0 has 32 elements.
    .map((cache) => (cache.keyDtype === 'f16' ? cache : { ...cache, keyDim: 32 * cache.keyDim }))
const parts = (names: string[]) =>
  fc.tuple(
    ...names.map((part) => fc.record({ part: fc.constant(part), units: dim, unitElements: dim })),
  )
const recurrent = (layers: number) =>
  fc.record({
    kind: fc.constant('recurrent' as const),
    component: fc.constant('mamba' as const),
    layers: layerLists(layers),
    convolution: parts(['conv.x', 'conv.b']),
    scan: parts(['ssm']),
  })
const geometries: fc.Arbitrary<Geometry> = fc.integer({ min: 1, max: 4 }).chain((layers) =>
  fc.record({
    layers: fc.constant(layers),
    caches: fc.oneof(
      fc.tuple(attention('kv', layers)),
      fc.tuple(attention('kv', layers), attention('swa', layers)),
      fc.tuple(recurrent(layers)),
      fc.tuple(attention('kv', layers), recurrent(layers)),
    ),
  }),
)
const prompts = fc.array(fc.integer({ min: 0, max: 200_000 }), { minLength: 1, maxLength: 40 })
const places: fc.Arbitrary<Place> = fc
  .integer({ min: 1, max: 5 })
  .chain((streams) =>
    fc
      .integer({ min: 0, max: streams - 1 })
      .map((stream) => ({ streams, stream, sequence: stream })),
  )
const forms = fc.constantFrom<Form>('saved', 'loaded')

/** A byte for each place in a cache; what is kept by request is another after every token. */
const byteOf =
  (n: number) =>
  (component: string, layer: number, part: string, row: number, index: number): number => {
    const length = component === 'mamba' ? n : 0
    const kind = component.charCodeAt(0) * 7 + part.charCodeAt(part.length - 1)
    return (kind * 31 + layer * 57 + row * 13 + index * 5 + length * 3 + 1) % 251
  }

const stateOf = (geometry: Geometry, tokens: readonly number[], place: Place, form: Form) =>
  naiveState(geometry, tokens, place, form, byteOf(tokens.length))

test('the state of a sequence has the size that llama.cpp gives it', () => {
  const n = 414
  const place = { streams: 4, stream: 2, sequence: 2 }
  const tokens = Array.from({ length: n }, () => 0)
  expect(describeState(smollm2, tokens, place, 'saved').bytes).toBe(
    12 + 4 * n + 4 + 4 * 4 + 12 * n + 8 + 720 + 23_040 * n,
  )
})

test('a state written field by field is accepted', () => {
  fc.assert(
    fc.property(geometries, prompts, places, forms, (geometry, tokens, place, form) => {
      checkState(
        stateOf(geometry, tokens, place, form),
        describeState(geometry, tokens, place, form),
      )
    }),
  )
})

test('a state comes out of the pages of another pool as it went in, for any chunks and another sequence', () => {
  fc.assert(
    fc.property(
      geometries,
      prompts,
      places,
      places,
      fc.integer({ min: 1, max: 9 }),
      fc.integer({ min: 1, max: 9 }),
      fc.nat(3),
      (geometry, tokens, from, to, pageTokens, chunk, more) => {
        const n = tokens.length
        const all = Math.ceil(n / pageTokens)
        const source = cacheOf(geometry, 'm', {}, { pageTokens, pages: all + 2, slots: 3 })
        const target = cacheOf(geometry, 'm', {}, { pageTokens, pages: all + 5, slots: 2 })
        const a = allocate(Math.max(1, source.bytes))
        const b = allocate(Math.max(1, target.bytes))
        b.view(0, b.bytes).fill(0xee)
        const pages: Record<string, Int32Array> = {}
        const targetPages: Record<string, Int32Array> = {}
        for (const component of source.shape.components) {
          const { name, addressed } = component
          const [first, end] = pageRange(component, n, pageTokens)
          // A window may have more pages than it needs.
          const length = addressed === 'request' ? 1 : Math.min(end, end - first + more)
          pages[name] = Int32Array.from({ length }, (_, i) =>
            addressed === 'request' ? 2 : all + 1 - i,
          )
          targetPages[name] = Int32Array.from({ length }, (_, i) =>
            addressed === 'request' ? 1 : 3 + i,
          )
        }
        checkPages(source, n, pages)
        checkPages(target, n, targetPages)

        // As prefill does: after every chunk the whole state is saved, and only new rows are taken.
        const prompt = { cache: source, memory: a, pages, tokens: n }
        for (let start = 0; start < n; start += chunk) {
          const held = tokens.slice(0, start + chunk)
          const { rows } = describeState(geometry, held, from, 'saved')
          saveRows(stateOf(geometry, held, from, 'saved'), rows, prompt, [start, held.length])
        }
        source.place.tensors.forEach((tensor, index) => {
          const other = target.place.tensors[index]
          if (!other) throw new Error('places differ')
          pages[tensor.component]?.forEach((page, i) => {
            const bytes = a.view(tensor.base + page * tensor.pageBytes, tensor.pageBytes)
            const at = other.base + (targetPages[tensor.component]?.[i] ?? 0) * other.pageBytes
            b.view(at, other.pageBytes).set(bytes)
          })
        })
        const described = describeState(geometry, tokens, to, 'loaded')
        // Memory that another state was in.
        const blob = Buffer.alloc(described.bytes, 0xa5)
        buildState(blob, geometry, described)
        loadRows(blob, described.rows, { cache: target, memory: b, pages: targetPages, tokens: n })
        expect(blob.equals(stateOf(geometry, tokens, to, 'loaded'))).toBe(true)
        a.free()
        b.free()
      },
    ),
    { numRuns: 300 },
  )
})

test('any other bit in a header is refused', () => {
  fc.assert(
    fc.property(
      geometries,
      prompts,
      places,
      forms,
      fc.nat(),
      fc.nat(7),
      (geometry, tokens, place, form, at, bit) => {
        const blob = stateOf(geometry, tokens, place, form)
        const offsets = headerOffsets(geometry, tokens.length, place, form)
        const offset = offsets[at % offsets.length] ?? 0
        blob[offset] = (blob[offset] ?? 0) ^ (1 << bit)
        expect(() => {
          checkState(blob, describeState(geometry, tokens, place, form))
        }).toThrow(expect.objectContaining({ code: 'ERR_KVX_MODEL_STATE' }))
      },
    ),
    { numRuns: 500 },
  )
})

test('a state that is cut off or has more bytes is refused', () => {
  fc.assert(
    fc.property(geometries, prompts, places, fc.nat(), (geometry, tokens, place, at) => {
      const blob = stateOf(geometry, tokens, place, 'saved')
      const refused = (bytes: Buffer): void => {
        expect(() => {
          checkState(bytes, describeState(geometry, tokens, place, 'saved'))
        }).toThrow(expect.objectContaining({ code: 'ERR_KVX_MODEL_STATE' }))
      }
      refused(blob.subarray(0, at % blob.length))
      refused(Buffer.concat([blob, Buffer.alloc(1)]))
    }),
  )
})

test('the state of another model, prompt or sequence is refused', () => {
  const place = { streams: 2, stream: 1, sequence: 1 }
  const blob = stateOf(smollm2, [1, 2, 3], place, 'saved')
  const refuses = (geometry: Geometry, tokens: number[], where: Place): void => {
    expect(() => {
      checkState(blob, describeState(geometry, tokens, where, 'saved'))
    }).toThrow(expect.objectContaining({ code: 'ERR_KVX_MODEL_STATE' }))
  }
  const [kv] = smollm2.caches as readonly [AttentionCache]
  refuses({ layers: 15, caches: [{ ...kv, layers: kv.layers.slice(15) }] }, [1, 2, 3], place)
  refuses({ layers: 30, caches: [{ ...kv, keyDim: 32, valueDim: 96 }] }, [1, 2, 3], place)
  refuses({ layers: 30, caches: [kv, { ...kv, layers: [] }] }, [1, 2, 3], place)
  refuses(smollm2, [1, 2, 4], place)
  refuses(smollm2, [1, 2], place)
  refuses(smollm2, [1, 2, 3], { streams: 2, stream: 0, sequence: 0 })
  refuses(smollm2, [1, 2, 3], { streams: 3, stream: 1, sequence: 1 })
})

test('tensors of a pool lie one behind the other and fill it', () => {
  fc.assert(
    fc.property(
      geometries,
      fc.integer({ min: 1, max: 32 }),
      fc.integer({ min: 1, max: 9 }),
      fc.integer({ min: 1, max: 9 }),
      (geometry, pageTokens, pages, slots) => {
        const { place, bytes } = cacheOf(geometry, 'm', {}, { pageTokens, pages, slots })
        let end = 0
        for (const { component, base, pageBytes } of place.tensors) {
          expect(base).toBe(end)
          end += (component === 'mamba' ? slots : pages) * pageBytes
        }
        expect(bytes).toBe(end)
      },
    ),
  )
})

const kvOf = (attention: Record<string, unknown>, others: Record<string, unknown> = {}) =>
  geometryOf('llama', { block_count: 2, embedding_length: 576, attention, ...others })

test('a geometry is read from the metadata of a model', () => {
  const dims = { keyDim: 64, valueDim: 64, keyDtype: 'f16' }
  const plain = { kind: 'attention', component: 'kv', layers: [0, 1], ...dims }
  expect(kvOf({ head_count: 9, head_count_kv: 3 })).toEqual({
    layers: 2,
    caches: [{ ...plain, heads: 3 }],
  })
  expect(kvOf({ head_count: 9 }).caches).toEqual([{ ...plain, heads: 9 }])
  expect(
    kvOf({ head_count: 9, head_count_kv: 1, key_length: 80, value_length: 96 }).caches,
  ).toEqual([{ ...plain, heads: 1, keyDim: 80, valueDim: 96 }])
  expect(kvOf({ head_count: 9, head_count_kv: 3 }, { nextn_predict_layers: 1 }).layers).toBe(1)
})

const layersOf = (geometry: Geometry) =>
  geometry.caches.map((cache) => [cache.component, ...cache.layers])

test.each<[string, string, Record<string, unknown>, unknown[][]]>([
  [
    'by heart',
    'gemma2',
    {},
    [
      ['kv', 1, 3, 5],
      ['swa', 0, 2, 4],
    ],
  ],
  [
    'by heart',
    'cohere2',
    { sliding_window: 8 },
    [
      ['kv', 3],
      ['swa', 0, 1, 2, 4, 5],
    ],
  ],
  [
    'from a period',
    'gemma3',
    { sliding_window: 8, sliding_window_pattern: 3 },
    [
      ['kv', 2, 5],
      ['swa', 0, 1, 3, 4],
    ],
  ],
  [
    'from a list',
    'gemma3',
    { sliding_window: 8, sliding_window_pattern: [false, true, true, false, false, true] },
    [
      ['kv', 0, 3, 4],
      ['swa', 1, 2, 5],
    ],
  ],
  ['from there being no window', 'gemma3', {}, [['kv', 0, 1, 2, 3, 4, 5]]],
  [
    'not at all where llama.cpp has none',
    'phi3',
    { sliding_window: 8 },
    [['kv', 0, 1, 2, 3, 4, 5]],
  ],
])('which layers have a window is known %s: %s', (_, architecture, attention, expected) => {
  const metadata = {
    block_count: 6,
    embedding_length: 64,
    attention: { head_count: 4, ...attention },
  }
  expect(layersOf(geometryOf(architecture, metadata))).toEqual(expected)
})

test('a window that is missing where there must be one is refused', () => {
  const metadata = { block_count: 4, embedding_length: 64, attention: { head_count: 4 } }
  expect(() => geometryOf('cohere2', metadata)).toThrow(/cohere2.*attention\.sliding_window/)
})

test('a model whose layers differ from each other is refused by name', () => {
  expect(() =>
    geometryOf('deci', {
      block_count: 2,
      embedding_length: 64,
      attention: { head_count: 8, head_count_kv: [4, 2] },
    }),
  ).toThrow(/deci.*differ.*head_count_kv/)
})

test.each<[CachePages, RegExp]>([
  [{ kv: Int32Array.of(0, 1, 2) }, /need 3 pages of 'swa'|need 2 pages of 'swa'/],
  [{ kv: Int32Array.of(0, 1), swa: Int32Array.of(0, 1) }, /40 tokens need 3 pages of 'kv', not 2/],
  [{ kv: Int32Array.of(0, 1, 2), swa: Int32Array.of(0) }, /40 tokens need 2 pages of 'swa', not 1/],
  [{ kv: Int32Array.of(0, 1, 2), swa: Int32Array.of(0, 1, 2, 3) }, /pages of 'swa', not 4/],
  [{ kv: Int32Array.of(0, 1, 9), swa: Int32Array.of(0, 1) }, /no page 9 of 'kv'; the pool has 9/],
  [{ kv: Int32Array.of(0, 1, 1), swa: Int32Array.of(0, 1) }, /a page of 'kv' is named twice/i],
  [
    { kv: Int32Array.of(0, 1, 2), swa: Int32Array.of(0, 1), mamba: Int32Array.of(0) },
    /no component 'mamba', only kv, swa/,
  ],
])('pages that are not those of a prompt are refused: %#', (pages, message) => {
  const geometry = geometryOf('gemma2', {
    block_count: 2,
    embedding_length: 64,
    attention: { head_count: 4, sliding_window: 20 },
  })
  const cache = cacheOf(geometry, 'm', {}, { pageTokens: 16, pages: 9, slots: 0 })
  checkPages(cache, 40, { kv: Int32Array.of(0, 1, 2), swa: Int32Array.of(0, 1) })
  expect(() => {
    checkPages(cache, 40, pages)
  }).toThrow(message)
})

/** Every byte that is not of the cache, found by writing two states that differ in the cache alone. */
function headerOffsets(geometry: Geometry, n: number, place: Place, form: Form): number[] {
  const tokens = Array.from({ length: n }, () => 7)
  const zeros = naiveState(geometry, tokens, place, form, () => 0x00)
  const ones = naiveState(geometry, tokens, place, form, () => 0xff)
  const cache = new Set(
    describeState(geometry, tokens, place, form).rows.flatMap((rows) =>
      outOfWindow(geometry, rows),
    ),
  )
  return [...zeros.keys()].filter((at) => zeros[at] === ones[at] && !cache.has(at))
}

/** Bytes of rows before a window: zeros in both. */
function outOfWindow(
  geometry: Geometry,
  {
    component,
    tokens,
    offset,
    rowBytes,
    runs,
    stride,
  }: ReturnType<typeof describeState>['rows'][number],
): number[] {
  const cache = geometry.caches.find((one) => one.component === component)
  if (!tokens || cache?.kind !== 'attention' || cache.window === undefined) return []
  const [first, end] = tokens
  const count = Math.max(0, end - cache.window - first)
  return Array.from({ length: runs }, (_, run) => run).flatMap((run) =>
    Array.from({ length: count * rowBytes }, (_, i) => offset + run * stride + i),
  )
}
