import { inspect } from 'node:util'
import { KvxError, toKvxError, type Memory } from '@kvx/contract'
import { addon, type MappedFile, type MemoryHandle } from './addon.ts'
import { allocateGpu, type AllocatedGpuMemory } from './gpu-memory.ts'
import { checkBytes, track, type Tracked } from './tracked.ts'

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

const handles = new WeakMap<Memory, { readonly handle: MemoryHandle; readonly tracked: Tracked }>()

/**
 * Zeroed memory of the host, or with `{ kind: 'cuda' }` of a GPU of this process (`device`: its ordinal, 0 when left out). That
 * takes what CUDA takes to begin: up to a second, off the JavaScript thread.
 *
 * @throws KvxError `ERR_KVX_INVALID_ARGUMENT`, `ERR_KVX_MEMORY` when the system or the GPU refuses,
 *   `ERR_KVX_BACKEND_UNAVAILABLE` without that GPU
 */
export function allocate(bytes: number): AllocatedMemory
export function allocate(
  bytes: number,
  where: { readonly kind: 'cuda'; readonly device?: number },
): Promise<AllocatedGpuMemory>
export function allocate(
  bytes: number,
  where?: { readonly kind: 'cuda'; readonly device?: number },
): AllocatedMemory | Promise<AllocatedGpuMemory> {
  if (where !== undefined) {
    checkPlace(where)
    return allocateGpu(bytes, where.device ?? 0)
  }
  checkBytes(bytes)
  return mapped(bytes, `${String(bytes)} bytes of shareable memory could not be allocated`, () =>
    addon().allocate(bytes),
  )
}

/** An index, as `sizes.map(allocate)` gives it, is no place. */
function checkPlace(where: { readonly kind?: unknown } | null): void {
  if (where?.kind === 'cuda') return
  throw new KvxError(
    'ERR_KVX_INVALID_ARGUMENT',
    `where must be { kind: 'cuda', device: N }, or left out for memory of the host, got ${inspect(where)}.`,
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

function mapped(bytes: number, failure: string, map: () => MappedFile): AllocatedMemory {
  const native = addon()
  let file: MappedFile
  try {
    file = map()
  } catch (cause) {
    throw new KvxError('ERR_KVX_MEMORY', `${failure}: ${(cause as Error).message}.`, { cause })
  }
  const memory: AllocatedMemory = Object.freeze({
    address: file.address,
    bytes,
    kind: 'cpu' as const,
    device: 0,
    fd: file.fd,
    view(offset: number, length: number): Uint8Array {
      tracked.check()
      if (!(length <= largestView)) {
        throw new KvxError(
          'ERR_KVX_INVALID_ARGUMENT',
          `A view spans at most ${String(largestView)} bytes, not ${String(length)}.`,
        )
      }
      try {
        return native.view(file.handle, offset, length)
      } catch (cause) {
        throw toKvxError(cause, 'ERR_KVX_INVALID_ARGUMENT')
      }
    },
    free(): void {
      tracked.free()
      native.free(file.handle)
    },
  })
  const tracked = track(memory)
  handles.set(memory, { handle: file.handle, tracked })
  return memory
}

/** The native handle of host memory made by `allocate` or `adopt`. */
export function handleOf(memory: Memory): MemoryHandle {
  const known = handles.get(memory)
  if (known === undefined) {
    throw new KvxError(
      'ERR_KVX_INVALID_ARGUMENT',
      "This needs host memory that was allocated with allocate() of '@kvx/native'.",
    )
  }
  known.tracked.check()
  return known.handle
}
