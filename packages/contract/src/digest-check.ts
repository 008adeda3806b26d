/** Does a job of digests mean anything, and does it stay inside the memories? The same as native code asks. */
import { digestRunWidth, digestTensorWidth } from './contract.ts'
import type { DigestJob, Memory } from './contract.ts'
import { KvxError } from './errors.ts'

/** One row of `DigestJob.tensors`. */
export interface DigestTensor {
  readonly region: number
  readonly base: number
  readonly pageBytes: number
  readonly rows: number
  readonly units: number
  readonly firstUnit: number
  readonly unitBytes: number
  readonly elementBytes: number
  readonly rowStride: number
  readonly unitStride: number
  readonly elementStride: number
}

/** In the order of the contract, with how they are called in messages and the least that each may be. */
const fields: readonly (readonly [keyof DigestTensor, name: string, least: 0 | 1])[] = [
  ['region', 'region', 0],
  ['base', 'base', 0],
  ['pageBytes', 'pageBytes', 0],
  ['rows', 'rows per page', 1],
  ['units', 'units', 1],
  ['firstUnit', 'first unit', 0],
  ['unitBytes', 'unitBytes', 1],
  ['elementBytes', 'elementBytes', 1],
  ['rowStride', 'row stride', 0],
  ['unitStride', 'unit stride', 0],
  ['elementStride', 'element stride', 0],
]

/** @throws KvxError `ERR_KVX_PLAN_INVALID` */
export function checkDigestJob(
  job: DigestJob,
  memories: readonly (Memory | undefined)[],
): DigestTensor[] {
  if (typeof job !== 'object' || (job as unknown) === null) throw invalid('job must be an object')
  const { pageTokens, tensors, keys, runs } = job
  if (!isList(memories)) throw invalid('memories must be an array')
  number('pageTokens', pageTokens, 1)
  if (!(tensors instanceof Float64Array)) throw invalid('tensors must be a Float64Array')
  if (!(keys instanceof BigUint64Array)) throw invalid('keys must be a BigUint64Array')
  if (!(runs instanceof Int32Array)) throw invalid('runs must be an Int32Array')
  if (tensors.length % digestTensorWidth !== 0) throw invalid('tensors must be rows of 11 numbers')
  if (runs.length % digestRunWidth !== 0) throw invalid('runs must be rows of 4 numbers')
  const count = tensors.length / digestTensorWidth
  if (keys.length !== count) {
    throw invalid(`there must be one key per tensor, got ${keys.length} for ${count}`)
  }
  const negative = runs.find((value) => value < 0)
  if (negative !== undefined) {
    throw invalid(`runs must not hold negative numbers, got ${negative}`)
  }
  return Array.from({ length: count }, (_, i) => {
    const row = tensors.subarray(i * digestTensorWidth, (i + 1) * digestTensorWidth)
    const tensor = tensorOf(row)
    checkTensor(job, tensor, memories[tensor.region])
    return tensor
  })
}

function tensorOf(row: Float64Array): DigestTensor {
  const entries = fields.map(
    ([field, name, least], i) => [field, number(name, row[i], least)] as const,
  )
  return Object.fromEntries(entries) as unknown as DigestTensor
}

function checkTensor(
  { pageTokens, runs }: DigestJob,
  tensor: DigestTensor,
  memory: Memory | undefined,
): void {
  const { region, base, pageBytes, rows, units, unitBytes, elementBytes } = tensor
  if (memory === undefined) throw invalid(`region ${region} is not registered`)
  const size = memory.bytes
  if (unitBytes % elementBytes !== 0) {
    throw invalid(`elementBytes must divide unitBytes (${unitBytes}), got ${elementBytes}`)
  }
  if (rows > 2 ** 31) throw invalid(`rows per page must be at most 2^31, got ${rows}`)
  if (pageTokens % rows !== 0 && rows % pageTokens !== 0) {
    throw invalid(
      `one of pageTokens (${pageTokens}) and rows per page must be a multiple of the other, got ${rows} rows`,
    )
  }
  if (rows * units * unitBytes > size) {
    throw invalid(
      `a page of ${rows} rows of ${units} units reaches outside region ${region} of ${size} bytes`,
    )
  }
  const rowTokens = Math.max(1, pageTokens / rows)
  const span =
    (rows - 1) * tensor.rowStride +
    (units - 1) * tensor.unitStride +
    (unitBytes / elementBytes - 1) * tensor.elementStride +
    elementBytes
  for (let i = 0; i < runs.length; i += digestRunWidth) {
    const [page, first, tokens, token] = [runs[i]!, runs[i + 1]!, runs[i + 2]!, runs[i + 3]!]
    if (tokens === 0) continue
    const which = `run ${i / digestRunWidth}`
    if (first % rowTokens !== 0 || token % rowTokens !== 0) {
      throw invalid(`${which} begins inside a row of ${rowTokens} tokens`)
    }
    const last = page + Math.floor((Math.ceil(((first + tokens) * rows) / pageTokens) - 1) / rows)
    if (base + last * pageBytes + span > size) {
      throw invalid(`${which} reaches outside region ${region} of ${size} bytes`)
    }
  }
}

/** `Array.isArray` makes `any` of what is in a list. */
function isList(value: unknown): boolean {
  return Array.isArray(value)
}

function number(name: string, value: unknown, least: 0 | 1): number {
  if (typeof value === 'number' && Number.isInteger(value) && value >= least && value <= 2 ** 53) {
    return value
  }
  throw invalid(`${name} must be an integer from ${least} to 2^53, got ${String(value)}`)
}

function invalid(why: string): KvxError {
  return new KvxError('ERR_KVX_PLAN_INVALID', `The digests cannot be computed: ${why}.`)
}
