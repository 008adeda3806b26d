/** Digests of a logical cache: are they those of the reference, and whom do they hold up? */
import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import {
  digestBytes,
  digests,
  digestTensorWidth,
  type DigestJob,
  type TransferEngine,
} from '@kvx/contract'
import { allocate, type AllocatedMemory } from '@kvx/native'
import fc from 'fast-check'
import { beforeAll, expect, test } from 'vitest'
import { loadFaulty, open } from './faulty.ts'
import { byDefinition } from './digest-definition.ts'

const size = 1 << 20
/** Long enough that the loop turns many times before it is known. */
const large = 512 * 2 ** 20

let engine: TransferEngine
let memories: AllocatedMemory[]

beforeAll(async () => {
  engine = await open(loadFaulty())
  memories = [allocate(size), allocate(size)]
  let state = 1
  for (const memory of memories) {
    const bytes = memory.view(0, size)
    for (let i = 0; i < size; i++) {
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
      bytes[i] = state >>> 24
    }
    await engine.register(memory)
  }
})

interface Tensor {
  region: number
  base: number
  pageBytes: number
  rows: number
  units: number
  firstUnit: number
  unitBytes: number
  elementBytes: number
  rowStride: number
  unitStride: number
  elementStride: number
}

const tensorRows = (tensors: readonly Tensor[]) =>
  Float64Array.from(
    tensors.flatMap(({ region, base, pageBytes, rows, units, firstUnit, ...rest }) => [
      ...[region, base, pageBytes, rows, units, firstUnit, rest.unitBytes, rest.elementBytes],
      ...[rest.rowStride, rest.unitStride, rest.elementStride],
    ]),
  )

/** Pages of whichever order within, that may overlap and lie anywhere. */
const job: fc.Arbitrary<DigestJob> = fc
  .record({
    tokensPerRow: fc.constantFrom(1, 1, 2, 4),
    rows: fc.integer({ min: 1, max: 5 }),
    slots: fc.boolean(),
  })
  .chain(({ tokensPerRow, rows, slots }) => {
    const token = (most: number) => fc.nat(most).map((n) => n * tokensPerRow)
    const tensor = fc
      .record({
        region: fc.nat(1),
        base: fc.nat(2_000),
        padding: fc.nat(50),
        units: fc.integer({ min: 1, max: 4 }),
        firstUnit: fc.oneof(fc.nat(3), fc.constant(2 ** 40)),
        elementBytes: fc.constantFrom(1, 2, 3, 4, 8),
        elements: fc.oneof(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: 600 })),
        order: fc.constantFrom('NHD', 'HND', 'HDN'),
      })
      .map(({ padding, elements, order, ...rest }): Tensor => {
        const { units, elementBytes } = rest
        const unitBytes = elementBytes * elements
        const strides = {
          NHD: { rowStride: units * unitBytes, unitStride: unitBytes, elementStride: elementBytes },
          HND: { rowStride: unitBytes, unitStride: rows * unitBytes, elementStride: elementBytes },
          HDN: {
            rowStride: elementBytes,
            unitStride: rows * unitBytes,
            elementStride: rows * elementBytes,
          },
        }[order]
        return {
          ...rest,
          ...strides,
          rows,
          unitBytes,
          pageBytes: rows * units * unitBytes + padding,
        }
      })
    const run = fc.record({
      page: fc.nat(2),
      first: token(slots ? 1 : rows),
      tokens: fc.nat(slots ? 2 : 2 * rows * tokensPerRow),
      token: fc.oneof(token(1_000), fc.constant(2 ** 31 - 4)),
    })
    return fc
      .record({
        tensors: fc.array(tensor, { maxLength: 4 }),
        runs: fc.array(run, { maxLength: 4 }),
        keys: fc.array(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), { minLength: 4, maxLength: 4 }),
      })
      .map(({ tensors, runs, keys }) => ({
        pageTokens: slots ? 1 : rows * tokensPerRow,
        tensors: tensorRows(tensors),
        keys: BigUint64Array.from(keys.slice(0, tensors.length)),
        runs: Int32Array.from(
          runs.flatMap(({ page, first, tokens, token }) => [page, first, tokens, token]),
        ),
      }))
  })

test('native code, the reference in JavaScript and the definition have the same digests of any job', async () => {
  let [same, counted] = [0, 0]
  await fc.assert(
    fc.asyncProperty(job, async (given) => {
      const native = await engine.digest(given)
      expect(native).toEqual(digests(given, memories))
      if (same++ % 10 === 0) expect(native).toEqual(byDefinition(given, memories))
      if (native.some((byte) => byte !== 0)) counted++
    }),
    { numRuns: 1_000 },
  )
  // Of jobs that count nothing it would prove nothing.
  expect(counted).toBeGreaterThan(500)
})

const whole: Tensor = {
  ...{ region: 0, base: 0, pageBytes: 1_024, rows: 4, units: 2, firstUnit: 0 },
  ...{ unitBytes: 128, elementBytes: 128, rowStride: 256, unitStride: 128, elementStride: 128 },
}
const jobOf = (
  change: Partial<Tensor> = {},
  runs: readonly number[] = [0, 0, 4, 0],
  more: Partial<DigestJob> = {},
): DigestJob => ({
  pageTokens: 4,
  tensors: tensorRows([{ ...whole, ...change }]),
  keys: BigUint64Array.of(7n),
  runs: Int32Array.from(runs),
  ...more,
})

test('every bit of a cell changes about half of the bits of its digest, in both halves', async () => {
  const one = jobOf({ units: 1, rows: 1 }, [0, 0, 1, 0], { pageTokens: 1 })
  const bytes = memories[0]!.view(0, 128)
  const before = await engine.digest(one)
  const changed = [0, 0]
  for (let bit = 0; bit < 1_024; bit++) {
    bytes[bit >> 3]! ^= 1 << (bit & 7)
    const after = await engine.digest(one)
    bytes[bit >> 3]! ^= 1 << (bit & 7)
    for (const half of [0, 1]) {
      let differing = 0
      for (let i = 8 * half; i < 8 * half + 8; i++) {
        for (let x = before[i]! ^ after[i]!; x > 0; x >>= 1) differing += x & 1
      }
      expect(differing).toBeGreaterThan(8)
      changed[half]! += differing
    }
  }
  for (const sum of changed) expect(Math.abs(sum / 1_024 - 32)).toBeLessThan(0.6)
})

test.each<[string, DigestJob, string]>([
  ['a region that is not registered', jobOf({ region: 2 }), 'region 2 is not registered'],
  ['a page beyond its region', jobOf({}, [1_024, 0, 4, 0]), 'run 0 reaches outside region 0'],
  ['a run into a page beyond it', jobOf({}, [1_023, 1, 4, 0]), 'run 0 reaches outside region 0'],
  ['a row beyond it', jobOf({ rowStride: size }), 'run 0 reaches outside region 0'],
  ['a unit beyond it', jobOf({ unitStride: size }), 'run 0 reaches outside region 0'],
  [
    'an element beyond it',
    jobOf({ elementBytes: 64, elementStride: size }),
    'run 0 reaches outside region 0',
  ],
  [
    'products beyond 64 bits',
    jobOf({ pageBytes: 2 ** 53, rowStride: 2 ** 53 }, [2 ** 31 - 1, 0, 2 ** 31 - 1, 0]),
    'run 0 reaches outside region 0',
  ],
  ['units that overlap without end', jobOf({ units: 2 ** 53, unitStride: 0 }), 'reaches outside'],
  ['rows that overlap without end', jobOf({ rows: 2 ** 31, rowStride: 0 }), 'reaches outside'],
  ['more rows than are counted', jobOf({ rows: 2 ** 53 }), 'rows per page must be at most 2^31'],
  ['a negative page', jobOf({}, [-1, 0, 1, 0]), 'must not hold negative numbers, got -1'],
  ['half a byte', jobOf({ unitBytes: 1.5 }), 'unitBytes must be an integer from 1 to 2^53'],
  ['no bytes', jobOf({ unitBytes: 0 }), 'unitBytes must be an integer from 1 to 2^53'],
  ['no tokens in a page', jobOf({}, [], { pageTokens: 0 }), 'pageTokens must be an integer from 1'],
  ['a size that is no number', jobOf({ base: NaN }), 'base must be an integer from 0 to 2^53'],
  ['elements that do not fit', jobOf({ elementBytes: 3 }), 'elementBytes must divide unitBytes'],
  ['rows that no token has', jobOf({ rows: 3 }), 'must be a multiple of the other, got 3 rows'],
  ['half a row', jobOf({ rows: 2 }, [0, 1, 3, 1]), 'run 0 begins inside a row of 2 tokens'],
  ['a row that is shifted', jobOf({ rows: 2 }, [0, 0, 3, 1]), 'begins inside a row of 2 tokens'],
  ['cut tensors', jobOf({}, [], { tensors: new Float64Array(10) }), 'must be rows of 11 numbers'],
  ['cut runs', jobOf({}, [0, 0, 4]), 'runs must be rows of 4 numbers'],
  [
    'a tensor without a key',
    jobOf({}, [], { keys: new BigUint64Array(0) }),
    'there must be one key per tensor, got 0 for 1',
  ],
  [
    'a table of another type',
    jobOf({}, [], { tensors: new Float32Array(11) as never }),
    'tensors must be a Float64Array',
  ],
])('%s is refused, by the reference too, and nothing is read', async (_, wrong, why) => {
  const refusal = {
    code: 'ERR_KVX_PLAN_INVALID',
    message: expect.stringContaining(why) as string,
  }
  await expect(engine.digest(wrong)).rejects.toMatchObject(refusal)
  expect(() => digests(wrong, memories)).toThrow(expect.objectContaining(refusal) as Error)
})

test('a job of no tensors, and one of no tokens, have an answer', async () => {
  const none = { tensors: new Float64Array(0), keys: new BigUint64Array(0) }
  expect(await engine.digest(jobOf({}, [0, 0, 4, 0], none))).toEqual(new Uint8Array(0))
  const nothing = new Uint8Array(digestBytes)
  expect(await engine.digest(jobOf({}, []))).toEqual(nothing)
  // A page behind the last one is named by a run of no tokens: it is not read.
  expect(await engine.digest(jobOf({}, [1_024, 0, 0, 0]))).toEqual(nothing)
})

/** A job that reads all of a large memory, with pages that are one cell each. */
async function withLarge() {
  const one = await open(loadFaulty())
  const memory = allocate(large)
  const region = await one.register(memory)
  const page = {
    ...{ rows: 1, units: 1, unitBytes: 4_096, elementBytes: 4_096, pageBytes: 4_096 },
  }
  const given = jobOf(page, [0, 0, large / 4_096, 0], { pageTokens: 1 })
  return { engine: one, memory, region, job: given }
}

test('the event loop goes on while digests are computed', async () => {
  const { engine, memory, job } = await withLarge()
  let turns = 0
  const turn = (): NodeJS.Immediate =>
    setImmediate(() => {
      turns++
      next = turn()
    })
  let next = turn()
  const digest = await engine.digest(job)
  clearImmediate(next)
  expect(digest).toHaveLength(digestBytes)
  // On this thread it would be one turn, or two.
  expect(turns).toBeGreaterThan(20)
  await engine.close()
  memory.free()
})

test('deregister waits for the digest that is computed, and refuses the one that waits for its turn', async () => {
  const { engine, memory, region, job } = await withLarge()
  const ends: string[] = []
  const first = engine.digest(job).then((digest) => {
    ends.push('first')
    return digest
  })
  const second = engine.digest(job).catch((error: unknown) => error)
  // The first is being computed now.
  await new Promise((resolve) => setImmediate(resolve))
  await region.deregister()
  ends.push('deregister')
  expect(ends).toEqual(['first', 'deregister'])
  expect(await first).toHaveLength(digestBytes)
  expect(await second).toMatchObject({ code: 'ERR_KVX_PLAN_INVALID' })
  memory.free()
  await engine.close()
  await expect(engine.digest(job)).rejects.toMatchObject({ code: 'ERR_KVX_CLOSED' })
})

test('close ends the digest that is computed, and waits until it no longer reads', async () => {
  const { engine, memory, job } = await withLarge()
  const ends: string[] = []
  const failed = ['first', 'second'].map((name) =>
    engine.digest(job).catch((error: unknown) => {
      ends.push(name)
      return error
    }),
  )
  await new Promise((resolve) => setImmediate(resolve))
  await engine.close()
  ends.push('close')
  memory.free()
  expect(ends).toEqual(['first', 'second', 'close'])
  for (const error of await Promise.all(failed)) {
    expect(error).toMatchObject({ code: 'ERR_KVX_CLOSED' })
  }
})

test('an aborted digest fails at once with the reason, and the memory stays registered until it no longer reads', async () => {
  const { engine, memory, region, job } = await withLarge()
  const [running, waiting, early] = [1, 2, 3].map(() => new AbortController())
  const first = engine.digest(job, { signal: running!.signal })
  const second = engine.digest(job, { signal: waiting!.signal })
  const third = engine.digest(job)
  await new Promise((resolve) => setImmediate(resolve))
  waiting!.abort('no longer wanted')
  await expect(second).rejects.toMatchObject({ code: 'ERR_KVX_ABORTED', cause: 'no longer wanted' })
  running!.abort()
  await expect(first).rejects.toMatchObject({ code: 'ERR_KVX_ABORTED' })
  // Those behind have their turn.
  expect(await third).toHaveLength(digestBytes)
  early!.abort()
  const refused = engine.digest(job, { signal: early!.signal })
  await expect(refused).rejects.toMatchObject({ code: 'ERR_KVX_ABORTED' })
  await region.deregister()
  memory.free()
  await engine.close()
})

test('memory of a device is refused with the number of its region, and other memory beside it is not', async () => {
  const one = await open(loadFaulty(), { device: 'hip' })
  const memory = allocate(4_096)
  await one.register(memory)
  await one.register({ address: 4_096n, bytes: 4_096, kind: 'hip', device: 0 })
  await expect(one.digest(jobOf({ region: 1 }))).rejects.toMatchObject({
    code: 'ERR_KVX_INVALID_OPTION',
    message: expect.stringContaining('Region 1 is hip memory') as string,
  })
  expect(await one.digest(jobOf())).toHaveLength(digestBytes)
  await one.close()
})

test('a thread of Node that ends while its digest is computed ends cleanly', async () => {
  const worker = new Worker(new URL('./children/digest.mjs', import.meta.url), {
    workerData: { bytes: large },
  })
  await once(worker, 'message')
  expect(await worker.terminate()).toBe(1)
})

test('a row of a tensor has as many numbers as the contract says', () => {
  expect(tensorRows([whole])).toHaveLength(digestTensorWidth)
})
