import { type ErrorCode, KvxError, type Memory } from '@kvx/contract'
import { addon } from './addon.ts'
import { checkBytes, track } from './tracked.ts'

/** Memory of a GPU that kvx allocated: zeroed, and made so that another process can map it. */
export interface AllocatedGpuMemory extends Memory {
  readonly kind: 'cuda'
  /**
   * A copy of bytes, for tests and tools.
   * @throws KvxError `ERR_KVX_INVALID_ARGUMENT` outside the memory, `ERR_KVX_INVALID_STATE` after `free`, `ERR_KVX_MEMORY`
   */
  read(offset: number, length: number): Promise<Uint8Array>
  /**
   * Copies bytes to the GPU, for tests and tools. Do not change them before it is done.
   * @throws KvxError as `read`
   */
  write(offset: number, bytes: Uint8Array): Promise<void>
  /**
   * Gives the memory back. A process that has it mapped keeps it until it lets go. Calling it again does nothing.
   * @throws KvxError `ERR_KVX_INVALID_STATE` while an engine has the memory registered
   */
  free(): Promise<void>
}

/** @throws KvxError `ERR_KVX_INVALID_ARGUMENT`, `ERR_KVX_BACKEND_UNAVAILABLE` without that GPU, `ERR_KVX_MEMORY` */
export async function allocateGpu(bytes: number, device: number): Promise<AllocatedGpuMemory> {
  checkBytes(bytes)
  if (!Number.isInteger(device) || device < 0 || device > 0xffff) {
    throw new KvxError(
      'ERR_KVX_INVALID_ARGUMENT',
      `device must be the ordinal of a GPU, got ${String(device)}.`,
    )
  }
  const native = addon()
  const { address, handle } = await native.allocateGpu(device, bytes).catch(rethrow)
  const checked = (offset: number, length: number): void => {
    inside.check()
    if (!(Number.isSafeInteger(offset) && offset >= 0 && length >= 0 && offset + length <= bytes)) {
      throw new KvxError(
        'ERR_KVX_INVALID_ARGUMENT',
        `offset ${String(offset)} and length ${String(length)} reach outside the ${String(bytes)} bytes.`,
      )
    }
  }
  const memory: AllocatedGpuMemory = Object.freeze({
    address,
    bytes,
    kind: 'cuda' as const,
    device,
    async read(offset: number, length: number): Promise<Uint8Array> {
      checked(offset, length)
      const buffer = new Uint8Array(length)
      await native.copyGpu(handle, offset, buffer, false).catch(rethrow)
      return buffer
    },
    async write(offset: number, data: Uint8Array): Promise<void> {
      checked(offset, data.byteLength)
      await native.copyGpu(handle, offset, data, true).catch(rethrow)
    },
    async free(): Promise<void> {
      inside.free()
      await native.freeGpu(handle).catch(rethrow)
    },
  })
  const inside = track(memory)
  return memory
}

function rethrow(cause: unknown): never {
  const { code, message } = cause as { code?: ErrorCode; message: string }
  throw new KvxError(code ?? 'ERR_KVX_INTERNAL', message, { cause })
}
