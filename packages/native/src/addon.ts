import type { Memory } from '@kvx/contract'
import { loadAddon } from './load.ts'

/** A GPU of this process, in the order that CUDA_VISIBLE_DEVICES gives. */
export interface Gpu {
  /** Its number in this process, which is what `Memory.device` means. */
  readonly ordinal: number
  /** The same in every process: `GPU-` and 32 hex digits with hyphens. */
  readonly uuid: string
  /** As the driver names it. */
  readonly name: string
  /** As `9.0`. */
  readonly computeCapability: string
  /** SMs: copies by a kernel take some of them. */
  readonly multiprocessors: number
  /** Work goes through a server process that outlives this one, so that kvx cannot fence it. */
  readonly mps: boolean
  /** Whether `allocate` can make memory here. */
  readonly allocatable: boolean
  /** By ordinal: whether it can read and write the memory of that GPU. */
  readonly reaches: readonly boolean[]
}

/** The GPUs, or why there are none. */
export interface Gpus {
  /** Why the list is empty. */
  readonly reason?: string
  /** Version of CUDA that the driver speaks: 13000 is 13.0. */
  readonly cuda: number
  /** Empty when there is none. */
  readonly list: readonly Gpu[]
}

/** The functions of this package's own addon (native/*.cc). */
interface Addon {
  allocate(bytes: number): MappedFile
  adopt(fd: number, bytes: number): MappedFile
  adoptGpu(
    device: number,
    handle: Uint8Array,
    offset: number,
    bytes: number,
  ): Promise<{ readonly address: bigint; readonly handle: object }>
  view(handle: MemoryHandle, offset: number, length: number): Uint8Array
  free(handle: MemoryHandle): void
  /** `reason` is empty where there are GPUs. */
  gpus(): Promise<Required<Gpus>>
  allocateGpu(device: number, bytes: number): Promise<{ address: bigint; handle: GpuHandle }>
  freeGpu(handle: GpuHandle): Promise<void>
  copyGpu(handle: GpuHandle, offset: number, buffer: Uint8Array, write: boolean): Promise<void>
  expand(
    lanes: Float64Array,
    groups: Int32Array,
    blocks: Int32Array,
    sourceBytes: Float64Array,
    destinationBytes: Float64Array,
    maxSegmentBytes: number,
  ): Float64Array
  digest(
    memories: readonly (Memory | undefined)[],
    pageTokens: number,
    tensors: Float64Array,
    keys: BigUint64Array,
    runs: Int32Array,
  ): DigestWork
  /** Into staging memory, or out of it. */
  copyStaged(
    isGather: boolean,
    memories: readonly (Memory | undefined)[],
    staging: Memory,
    offset: number,
    lanes: Float64Array,
    groups: Int32Array,
    blocks: Int32Array,
  ): Promise<number>
  scatter(...job: TokenJob): void
  gather(...job: TokenJob): void
}

export interface MappedFile {
  readonly address: bigint
  readonly fd: number
  readonly handle: MemoryHandle
}

export interface DigestWork {
  /** Undefined when it was stopped before its end. */
  readonly done: Promise<Uint8Array | undefined>
  stop(): void
}

type TokenJob = [
  buffer: Uint8Array,
  memory: MemoryHandle,
  tensors: Float64Array,
  pages: Int32Array,
  pageTokens: number,
  from: number,
  to: number,
]

declare const memoryBrand: unique symbol
export interface MemoryHandle {
  readonly [memoryBrand]: true
}

declare const gpuBrand: unique symbol
export interface GpuHandle {
  readonly [gpuBrand]: true
}

let loaded: Addon | undefined

/** Loaded when it is first needed, so that the package can be imported where it was not built. */
export function addon(): Addon {
  loaded ??= loadAddon<Addon>(new URL('..', import.meta.url), '@kvx/native')
  return loaded
}
