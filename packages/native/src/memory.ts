import { KvxError, toKvxError, type Memory } from '@kvx/contract'
import { addon, type MappedFile, type MemoryHandle } from './addon.ts'

/** What a `Uint8Array` can span in the oldest Node that kvx supports. */
const largestView = 2 ** 32

/**
 * Memory that kvx mapped: page-aligned, a memory file that another process of this host can map (`fd`), never
 * inherited by forks.
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
   * Gives the bytes of `allocate` back to the system at once. Views that are still around read zeros; what is written
   * through them is lost with them. Of `adopt`: closes the descriptor; the bytes are those of whoever made the file. Calling it
   * again does nothing.
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

/**
 * Zeroed memory of this process.
 * @throws KvxError `ERR_KVX_INVALID_ARGUMENT`, `ERR_KVX_MEMORY` when the system refuses
 */
export function allocate(bytes: number): AllocatedMemory {
  checkBytes(bytes)
  return mapped(bytes, `${String(bytes)} bytes of shareable memory could not be allocated`, () =>
    addon().allocate(bytes),
  )
}

/**
 * The first `bytes` of a memory file that another process of this host made (`memfd_create`), sealed against shrinking: the pool of
 * a model that runs beside this process. `fd` is a descriptor of this process; it is duplicated, so that the caller may close it.
 * @throws KvxError `ERR_KVX_INVALID_ARGUMENT`, `ERR_KVX_MEMORY` when the file is no such file, too short, or cannot be mapped
 */
export function adopt(fd: number, bytes: number): AllocatedMemory {
  checkBytes(bytes)
  if (!Number.isInteger(fd) || fd < 0 || fd >= 2 ** 31) {
    throw new KvxError(
      'ERR_KVX_INVALID_ARGUMENT',
      `fd must be an open file descriptor, got ${String(fd)}.`,
    )
  }
  return mapped(
    bytes,
    `File descriptor ${String(fd)} cannot be used as ${String(bytes)} bytes of shared memory`,
    () => addon().adopt(fd, bytes),
  )
}

function checkBytes(bytes: number): void {
  if (Number.isSafeInteger(bytes) && bytes > 0) return
  throw new KvxError(
    'ERR_KVX_INVALID_ARGUMENT',
    `Memory needs a positive whole number of bytes, not ${String(bytes)}.`,
  )
}

function mapped(bytes: number, failure: string, map: () => MappedFile): AllocatedMemory {
  const native = addon()
  let file: MappedFile
  try {
    file = map()
  } catch (cause) {
    throw new KvxError('ERR_KVX_MEMORY', `${failure}: ${(cause as Error).message}.`, { cause })
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

/** The native handle of memory made by `allocate` or `adopt`. */
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

/** Keeps memory of `allocate` or `adopt` from being freed until the returned function is called; other memory is the host's own care. */
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
