import type { MemoryKind } from '@kvx/contract'
import { loadAddon, type EngineBinding } from '@kvx/native'
import { unavailable } from '@kvx/vendor'

/** What a library is. */
export interface GoodVerdict {
  /** Methods of a C++ class, or C functions. */
  readonly face: 'c++' | 'c'
  /** Size of Mooncake's request structure; 0 with C functions. */
  readonly requestBytes: number
  /** System libraries that are missing and were replaced. */
  readonly standIns: readonly string[]
  /** What it can register. */
  readonly memoryKinds: readonly MemoryKind[]
}

/** Or the reason why it cannot be used. */
export type Verdict = GoodVerdict | { readonly reason: string }

export interface Binding extends EngineBinding {
  /** Loads the library and sends bytes with it. May end the process. */
  check(path: string, needsAll: boolean): Verdict
}

/** @throws KvxError `ERR_KVX_BACKEND_UNAVAILABLE` on other platforms, or when it is not built */
export function binding(): Binding {
  if (process.platform !== 'linux' || !['x64', 'arm64'].includes(process.arch)) {
    throw unavailable(
      `Mooncake exists for Linux on x86-64 and arm64; this is ${process.platform} on ${process.arch}.`,
    )
  }
  return loadAddon<Binding>(new URL('..', import.meta.url), '@kvx/mooncake')
}
