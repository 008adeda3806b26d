import { digestBytes, digestRunWidth } from './contract.ts'
import type { DigestJob, Memory } from './contract.ts'
import { checkDigestJob, type DigestTensor } from './digest-check.ts'
import { KvxError, toKvxError } from './errors.ts'
import { addBlock, blockBytes, type BlockName } from './hash.ts'

/**
 * The digests of a job, computed at once on this thread: for engines in JavaScript, and what others are compared with.
 *
 * @param memories by number of the region
 * @returns 16 bytes per tensor
 * @throws KvxError `ERR_KVX_PLAN_INVALID` as `TransferEngine.digest`, `ERR_KVX_INVALID_OPTION` when a memory cannot be viewed
 */
export function digests(job: DigestJob, memories: readonly (Memory | undefined)[]): Uint8Array {
  const tensors = checkDigestJob(job, memories)
  const { pageTokens, keys, runs } = job
  const sums = new Uint32Array((tensors.length * digestBytes) / 4)
  for (const [t, tensor] of tensors.entries()) {
    const memory = memories[tensor.region]
    const keyLow = Number(keys[t]! & 0xffff_ffffn)
    const name = { keyLow, keyHigh: Number(keys[t]! >> 32n), row: 0, unit: 0, block: 0 }
    for (let r = 0; r < runs.length; r += digestRunWidth) {
      const [page = 0, first = 0, tokens = 0, token = 0] = runs.subarray(r, r + digestRunWidth)
      const from = Math.floor((first * tensor.rows) / pageTokens)
      const end = Math.ceil(((first + tokens) * tensor.rows) / pageTokens)
      const logical = Math.floor((token * tensor.rows) / pageTokens) - from
      for (let q = from; q < end; q++) {
        const bytes = rowOf(tensor, memory, page + Math.floor(q / tensor.rows), q % tensor.rows)
        name.row = logical + q
        addRow(sums, t * 4, tensor, bytes, name)
      }
    }
  }
  const result = new DataView(new ArrayBuffer(sums.length * 4))
  sums.forEach((half, i) => {
    result.setUint32(i * 4, half, true)
  })
  return new Uint8Array(result.buffer)
}

/** The bytes from the first to the last of a row. */
function rowOf(
  tensor: DigestTensor,
  memory: Memory | undefined,
  page: number,
  row: number,
): Uint8Array {
  const { region, base, pageBytes, rowStride, units, unitStride } = tensor
  if (memory?.view === undefined) {
    throw new KvxError(
      'ERR_KVX_INVALID_OPTION',
      `The memory of region ${region} cannot be viewed, so it cannot be read here.`,
    )
  }
  const { unitBytes, elementBytes, elementStride } = tensor
  const span =
    (units - 1) * unitStride + (unitBytes / elementBytes - 1) * elementStride + elementBytes
  const start = base + page * pageBytes + row * rowStride
  try {
    return memory.view(start, span)
  } catch (cause) {
    throw toKvxError(cause, 'ERR_KVX_INVALID_OPTION')
  }
}

const words = new Uint8Array(blockBytes)
const wordsView = new DataView(words.buffer)

function addRow(
  sums: Uint32Array,
  at: number,
  { units, firstUnit, unitBytes, elementBytes, unitStride, elementStride }: DigestTensor,
  row: Uint8Array,
  name: BlockName,
): void {
  for (let u = 0; u < units; u++) {
    name.unit = firstUnit + u
    for (let from = 0; from < unitBytes; from += blockBytes) {
      const bytes = Math.min(blockBytes, unitBytes - from)
      words.fill(0, bytes)
      if (elementStride === elementBytes) {
        words.set(row.subarray(u * unitStride + from, u * unitStride + from + bytes))
      } else {
        for (let i = 0; i < bytes; i++) {
          const inElement = (from + i) % elementBytes
          const element = (from + i - inElement) / elementBytes
          words[i] = row[u * unitStride + element * elementStride + inElement]!
        }
      }
      name.block = from / blockBytes
      addBlock(sums, at, name, wordsView, bytes)
    }
  }
}
