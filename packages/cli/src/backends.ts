/** Where this command finds transfer backends: kvx's own lie beside it, all others where it was called. */
import { isKvxError, type Backend } from '@kvx/contract'
import { loadBackend, publishedBackends } from '@kvx/core/backend'
import { nearest, UsageError } from './usage.ts'

/**
 * @param name a short name, a package, or a path
 * @throws KvxError as `loadBackend`; UsageError when it is nearly the name of one of kvx's own
 */
export async function findBackend(name: string): Promise<Backend> {
  const beside = { from: import.meta.url }
  if (publishedBackends.includes(name)) return loadBackend(name, beside)
  try {
    return await loadBackend(name, { from: process.cwd() })
  } catch (cause) {
    if (!isNotInstalled(cause)) throw cause
    const found = await besideThisCommand(name)
    if (found !== undefined) return found
    const near = nearest(name, publishedBackends)
    if (near === undefined) throw cause
    throw new UsageError(`There is no transfer backend '${name}': did you mean '${near}'?`)
  }
}

/** Packages that were installed together with kvx, such as globally. A path is the caller's alone. */
async function besideThisCommand(name: string): Promise<Backend | undefined> {
  if (/^[./]/.test(name)) return undefined
  try {
    return await loadBackend(name, { from: import.meta.url })
  } catch (cause) {
    if (isNotInstalled(cause)) return undefined
    throw cause
  }
}

const isNotInstalled = (cause: unknown): boolean =>
  isKvxError(cause) && cause.code === 'ERR_KVX_BACKEND_NOT_INSTALLED'
