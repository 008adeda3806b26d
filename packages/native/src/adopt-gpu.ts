import { inspect } from 'node:util'
import { KvxError, type Memory } from '@kvx/contract'
import { addon } from './addon.ts'

/** GPU memory as the process that made it describes it. */
export interface SharedGpuMemory {
  /** Ordinal of the device in this process. */
  readonly device: number
  /** The 64 bytes of `cuIpcGetMemHandle` there, for memory made by `cuMemAlloc` or `cudaMalloc`. */
  readonly handle: Uint8Array
  /** Where the range begins in the allocation, in bytes. */
  readonly offset: number
  /** Length of the range. */
  readonly bytes: number
}

/** The native mapping of each: it stays as long as the memory is reachable. */
const mappings = new WeakMap<Memory, object>()

/**
 * Memory of a GPU that another process of this host made, mapped here: the pool of a model that runs beside this process. It begins
 * CUDA in this process, which takes up to a second, off the JavaScript thread, and half a GiB of that GPU. It is unmapped when
 * nobody holds the memory any more; an engine that has it registered does.
 *
 * @throws KvxError `ERR_KVX_INVALID_ARGUMENT`, `ERR_KVX_MEMORY` when it cannot be mapped: without that GPU, in the process that made it, or
 *   when that has ended
 */
export async function adoptGpu(shared: SharedGpuMemory): Promise<Memory> {
  const { device, handle, offset, bytes } = shared
  if (!(handle instanceof Uint8Array) || handle.length !== 64) {
    throw invalid('handle must be the 64 bytes of cuIpcGetMemHandle', handle)
  }
  if (!natural(device) || device > 0xffff)
    throw invalid('device must be the ordinal of a GPU', device)
  if (!natural(offset)) throw invalid('offset must be a whole number of bytes', offset)
  if (!natural(bytes) || bytes === 0) throw invalid('bytes must be a positive integer', bytes)
  const mapped = await addon()
    .adoptGpu(device, handle, offset, bytes)
    .catch((cause: unknown) => {
      const { message } = cause as Error
      throw new KvxError('ERR_KVX_MEMORY', message, { phase: 'open', cause })
    })
  const { address } = mapped
  const memory: Memory = Object.freeze({ address, bytes, kind: 'cuda', device, handle, offset })
  mappings.set(memory, mapped.handle)
  return memory
}

const natural = (value: unknown): value is number =>
  Number.isSafeInteger(value) && Number(value) >= 0

function invalid(what: string, got: unknown): KvxError {
  return new KvxError(
    'ERR_KVX_INVALID_ARGUMENT',
    `${what}, got ${inspect(got, { maxArrayLength: 4 })}.`,
  )
}
