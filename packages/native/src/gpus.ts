import { addon } from './addon.ts'

export interface Gpu {
  /** Its number in this process, which is what `Memory.device` means. */
  readonly ordinal: number
  /** The same in every process: `GPU-` and 32 hex digits with hyphens. */
  readonly uuid: string
  readonly name: string
  /** As `9.0`. */
  readonly computeCapability: string
  readonly multiprocessors: number
  /** Work goes through a server process that outlives this one, so that kvx cannot fence it. */
  readonly mps: boolean
  /** Whether `allocate` can make memory here. */
  readonly allocatable: boolean
  /** By ordinal: whether it can read and write the memory of that GPU. */
  readonly reaches: readonly boolean[]
}

export interface Gpus {
  /** Why the list is empty. */
  readonly reason?: string
  /** Version of CUDA that the driver speaks: 13000 is 13.0. */
  readonly cuda: number
  readonly list: readonly Gpu[]
}

/**
 * The GPUs that this process sees. Creates no context on any of them. The first call initializes CUDA, which takes up to half a
 * second, off the JavaScript thread.
 *
 * @throws KvxError `ERR_KVX_BACKEND_UNAVAILABLE` when the addon is not built
 */
export async function gpus(): Promise<Gpus> {
  const { reason, ...found } = await addon().gpus()
  return reason === '' ? found : { reason, ...found }
}
