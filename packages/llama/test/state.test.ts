import fc from 'fast-check'
import { expect, test } from 'vitest'
import { allocate, gather, scatter } from '@kvx/native'
import { bytesPerPage, modelLayout } from '../src/layout.ts'
import { buildState, checkState, stateShape, type Place } from '../src/state/blob.ts'
import { geometryOf, type Geometry } from '../src/state/geometry.ts'
import { stateTensors } from '../src/state/tensors.ts'
import { naiveState } from './reference.ts'

const smollm2: Geometry = { layers: 30, heads: 3, keyDim: 64, valueDim: 64 }

const geometries = fc.record({
  layers: fc.integer({ min: 1, max: 4 }),
  heads: fc.integer({ min: 1, max: 3 }),
  keyDim: fc.integer({ min: 1, max: 5 }),
  valueDim: fc.integer({ min: 1, max: 5 }),
})
const prompts = fc.array(fc.integer({ min: 0, max: 200_000 }), { minLength: 1, maxLength: 40 })
const places: fc.Arbitrary<Place> = fc
  .integer({ min: 1, max: 5 })
  .chain((streams) =>
    fc
      .integer({ min: 0, max: streams - 1 })
      .map((stream) => ({ streams, stream, sequence: stream })),
  )

function counting(): () => number {
  let next = 0
  return () => (next = (next * 31 + 17) % 251)
}

test('the state of a sequence has the size that llama.cpp gives it', () => {
  const n = 414
  const place = { streams: 4, stream: 2, sequence: 2 }
  expect(stateShape(smollm2, n, place).bytes).toBe(
    12 + 4 * n + 4 + 4 * 4 + 12 * n + 8 + 720 + 23_040 * n,
  )
})

test('a state written field by field is accepted', () => {
  fc.assert(
    fc.property(geometries, prompts, places, (geometry, tokens, place) => {
      checkState(naiveState(geometry, tokens, place, counting()), geometry, tokens, place)
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
      (geometry, tokens, from, to, pageTokens, chunk) => {
        const n = tokens.length
        const needed = Math.ceil(n / pageTokens)
        const source = modelLayout(geometry, 'm', pageTokens, needed + 2)
        const target = modelLayout(geometry, 'm', pageTokens, needed + 5)
        const a = allocate((needed + 2) * bytesPerPage(source))
        const b = allocate((needed + 5) * bytesPerPage(target))
        const sourcePages = Int32Array.from({ length: needed }, (_, i) => needed + 1 - i)
        const targetPages = Int32Array.from({ length: needed }, (_, i) => 3 + i)

        // As prefill does: after every chunk the whole state is saved, and only new rows are taken.
        const whole = naiveState(geometry, tokens, from, counting())
        for (let start = 0; start < n; start += chunk) {
          const end = Math.min(n, start + chunk)
          scatter({
            buffer: prefixOf(whole, geometry, tokens, from, end),
            memory: a,
            tensors: stateTensors(geometry, source, end, from),
            pages: sourcePages,
            pageTokens,
            from: start,
            to: end,
          })
        }
        source.tensors.forEach((tensor, index) => {
          const other = target.tensors[index]
          if (!other) throw new Error('layouts differ')
          for (let i = 0; i < needed; i++) {
            const page = a.view(
              tensor.base + (sourcePages[i] ?? 0) * tensor.pageBytes,
              tensor.pageBytes,
            )
            b.view(other.base + (targetPages[i] ?? 0) * other.pageBytes, other.pageBytes).set(page)
          }
        })
        const blob = buildState(geometry, tokens, to)
        gather({
          buffer: blob,
          memory: b,
          tensors: stateTensors(geometry, target, n, to),
          pages: targetPages,
          pageTokens,
          from: 0,
          to: n,
        })
        expect(blob.equals(naiveState(geometry, tokens, to, counting()))).toBe(true)
        a.free()
        b.free()
      },
    ),
  )
})

test('any other bit in a header is refused', () => {
  fc.assert(
    fc.property(
      geometries,
      prompts,
      places,
      fc.nat(),
      fc.nat(7),
      (geometry, tokens, place, at, bit) => {
        const blob = naiveState(geometry, tokens, place, counting())
        const offsets = headerOffsets(geometry, tokens.length, place)
        const offset = offsets[at % offsets.length] ?? 0
        blob[offset] = (blob[offset] ?? 0) ^ (1 << bit)
        expect(() => {
          checkState(blob, geometry, tokens, place)
        }).toThrow(expect.objectContaining({ code: 'ERR_KVX_MODEL_STATE' }))
      },
    ),
    { numRuns: 500 },
  )
})

test('a state that is cut off or has more bytes is refused', () => {
  fc.assert(
    fc.property(geometries, prompts, places, fc.nat(), (geometry, tokens, place, at) => {
      const blob = naiveState(geometry, tokens, place, counting())
      const refused = (bytes: Buffer): void => {
        expect(() => {
          checkState(bytes, geometry, tokens, place)
        }).toThrow(expect.objectContaining({ code: 'ERR_KVX_MODEL_STATE' }))
      }
      refused(blob.subarray(0, at % blob.length))
      refused(Buffer.concat([blob, Buffer.alloc(1)]))
    }),
  )
})

test('the state of another model, prompt or sequence is refused', () => {
  const place = { streams: 2, stream: 1, sequence: 1 }
  const blob = naiveState(smollm2, [1, 2, 3], place, counting())
  const refuses = (geometry: Geometry, tokens: number[], where: Place): void => {
    expect(() => {
      checkState(blob, geometry, tokens, where)
    }).toThrow(expect.objectContaining({ code: 'ERR_KVX_MODEL_STATE' }))
  }
  refuses({ ...smollm2, layers: 15 }, [1, 2, 3], place)
  refuses({ ...smollm2, keyDim: 32, valueDim: 96 }, [1, 2, 3], place)
  refuses(smollm2, [1, 2, 4], place)
  refuses(smollm2, [1, 2], place)
  refuses(smollm2, [1, 2, 3], { streams: 2, stream: 0, sequence: 0 })
  refuses(smollm2, [1, 2, 3], { streams: 3, stream: 1, sequence: 1 })
})

test('a page of the demo model has 16 · 23,040 bytes', () => {
  const layout = modelLayout(smollm2, 'm', 16, 7)
  expect(bytesPerPage(layout)).toBe(16 * 23_040)
  expect(layout.tensors).toHaveLength(60)
  expect(layout.tensors[0]).toMatchObject({ part: 'k', pageBytes: 16 * 384, order: 'token-major' })
  expect(layout.tensors[1]).toMatchObject({ part: 'v', base: 7 * 16 * 384, order: 'head-major' })
})

test('tensors of a layout lie one behind the other and fill the pool', () => {
  fc.assert(
    fc.property(
      geometries,
      fc.integer({ min: 1, max: 32 }),
      fc.integer({ min: 1, max: 9 }),
      (geometry, pageTokens, pages) => {
        const layout = modelLayout(geometry, 'm', pageTokens, pages)
        let end = 0
        for (const tensor of layout.tensors) {
          expect(tensor.base).toBe(end)
          expect(tensor.pageBytes).toBe(pageTokens * geometry.heads * tensor.headBytes)
          end += pages * tensor.pageBytes
        }
        expect(end).toBe(pages * bytesPerPage(layout))
      },
    ),
  )
})

test('a geometry is read from the metadata of a model', () => {
  const facts = { architecture: 'llama', block_count: 30, embedding_length: 576, head_count: 9 }
  expect(geometryOf({ ...facts, head_count_kv: 3 })).toEqual(smollm2)
  expect(geometryOf(facts)).toEqual({ ...smollm2, heads: 9 })
  expect(geometryOf({ ...facts, head_count_kv: 1, key_length: 80, value_length: 96 })).toEqual({
    layers: 30,
    heads: 1,
    keyDim: 80,
    valueDim: 96,
  })
})

test('a model whose layers differ from each other is refused by name', () => {
  expect(() =>
    geometryOf({
      architecture: 'deci',
      block_count: 2,
      embedding_length: 64,
      head_count: 8,
      head_count_kv: [4, 2],
    }),
  ).toThrow(/deci.*differ.*head_count_kv/)
})

/** What llama.cpp would save when the sequence held only the first `end` tokens. */
function prefixOf(
  whole: Buffer,
  geometry: Geometry,
  tokens: readonly number[],
  place: Place,
  end: number,
): Buffer {
  const n = tokens.length
  const from = stateShape(geometry, n, place)
  const to = stateShape(geometry, end, place)
  const blob = buildState(geometry, tokens.slice(0, end), place)
  const row = geometry.heads * geometry.keyDim * 2
  for (let layer = 0; layer < geometry.layers; layer++) {
    const source = from.keys + layer * from.keyStep + 12
    whole.copy(blob, to.keys + layer * to.keyStep + 12, source, source + end * row)
    for (let element = 0; element < geometry.heads * geometry.valueDim; element++) {
      const values = from.values + layer * from.valueStep + 12 + element * n * 2
      whole.copy(
        blob,
        to.values + layer * to.valueStep + 12 + element * end * 2,
        values,
        values + end * 2,
      )
    }
  }
  return blob
}

/** Every byte that is not K or V, found by writing two states that differ in K and V alone. */
function headerOffsets(geometry: Geometry, n: number, place: Place): number[] {
  const tokens = Array.from({ length: n }, () => 7)
  const zeros = naiveState(geometry, tokens, place, () => 0x00)
  const ones = naiveState(geometry, tokens, place, () => 0xff)
  return [...zeros.keys()].filter((offset) => zeros[offset] === ones[offset])
}
