import { KvxError, toKvxError, type Memory } from '@kvx/contract'
import { addon, type MemoryHandle } from './addon.ts'

/** What a `Uint8Array` can span in the oldest Node that kvx supports. */
const largestView = 2 ** 32

/**
 * Memory that kvx allocated: page-aligned, zeroed, a memory file that another process of this host can
 * map (`fd`), never inherited by forks.
 */
export interface AllocatedMemory extends Memory {
  readonly kind: 'cpu'
  readonly fd: number
  /**
   * The bytes from `offset` on, not copied. `length` at most 4 GiB.
   * @throws KvxError `ERR_KVX_INVALID_ARGUMENT` outside the memory, `ERR_KVX_INVALID_STATE` after `free`
   */
  view(offset: number, length: number): Uint8Array
  /**
   * Gives the bytes back to the system at once. Views that are still around read zeros; what is written
   * through them is lost with them. Calling it again does nothing.
   * @throws KvxError `ERR_KVX_INVALID_STATE` while an engine has the memory registered
   */
  free(): void
}

/** `users`: engines that have it registered. */
interface Inside {
  readonly handle: MemoryHandle
  users: number
  freed: boolean
}
const insides = new WeakMap<Memory, Inside>()

/** @throws KvxError `ERR_KVX_INVALID_ARGUMENT`, `ERR_KVX_MEMORY` when the system refuses */
export function allocate(bytes: number): AllocatedMemory {
  if (!Number.isSafeInteger(bytes) || bytes <= 0) {
    throw new KvxError(
      'ERR_KVX_INVALID_ARGUMENT',
      `Memory needs a positive whole number of bytes, not ${String(bytes)}.`,
    )
  }
  const native = addon()
  let file: ReturnType<typeof native.allocate>
  try {
    file = native.allocate(bytes)
  } catch (cause) {
    throw new KvxError(
      'ERR_KVX_MEMORY',
      `${String(bytes)} bytes of shareable memory could not be allocated: ${(cause as Error).message}.`,
      { cause },
    )
  }
  const inside: Inside = { handle: file.handle, users: 0, freed: false }
  const memory: AllocatedMemory = Object.freeze({
    address: file.address,
    bytes,
    kind: 'cpu' as const,
    device: 0,
    fd: file.fd,
    view(offset: number, length: number): Uint8Array {
      if (inside.freed) throw freed()
      if (!(length <= largestView)) {
        throw new KvxError(
          'ERR_KVX_INVALID_ARGUMENT',
          `A view spans at most ${String(largestView)} bytes, not ${String(length)}.`,
        )
      }
      try {
        return native.view(inside.handle, offset, length)
      } catch (cause) {
        throw toKvxError(cause, 'ERR_KVX_INVALID_ARGUMENT')
      }
    },
    free(): void {
      if (inside.users > 0) {
        throw new KvxError(
          'ERR_KVX_INVALID_STATE',
          'The memory is registered with a transfer engine: deregister its region or close the engine first.',
        )
      }
      inside.freed = true
      native.free(inside.handle)
    },
  })
  insides.set(memory, inside)
  return memory
}

/** The native handle of memory made by `allocate`. */
export function handleOf(memory: Memory): MemoryHandle {
  const inside = insides.get(memory)
  if (inside === undefined) {
    throw new KvxError(
      'ERR_KVX_INVALID_ARGUMENT',
      "This needs memory that was allocated with allocate() of '@kvx/native'.",
    )
  }
  if (inside.freed) throw freed()
  return inside.handle
}

/** Keeps memory of `allocate` from being freed until the returned function is called; other memory is the host's own care. */
export function pin(memory: Memory): () => void {
  const inside = insides.get(memory)
  if (inside === undefined) return () => undefined
  if (inside.freed) throw freed()
  let pinned = true
  inside.users += 1
  return () => {
    if (pinned) inside.users -= 1
    pinned = false
  }
}

function freed(): KvxError {
  return new KvxError('ERR_KVX_INVALID_STATE', 'The memory was freed.')
}
