/** Where this command finds transfer backends: kvx's own lie beside it, all others where it was called. */
import { isKvxError, type Backend } from '@kvx/contract'
import { loadBackend, publishedBackends } from '@kvx/core/backend'
import { nearest, UsageError } from './usage.ts'

/**
 * @param name a short name, a package, or a path
 * @throws KvxError as `loadBackend`; UsageError when it is nearly the name of one of kvx's own
 */
export async function findBackend(name: string): Promise<Backend> {
  return (await locateBackend(name)).backend
}

/**
 * As `findBackend`, and from where it was found, for processes that load it themselves.
 * @throws as `findBackend`
 */
export async function locateBackend(name: string): Promise<{ backend: Backend; from: string }> {
  const beside = { from: import.meta.url }
  if (publishedBackends.includes(name))
    return { ...beside, backend: await loadBackend(name, beside) }
  const here = { from: process.cwd() }
  try {
    return { ...here, backend: await loadBackend(name, here) }
  } catch (cause) {
    if (!isNotInstalled(cause)) throw cause
    const found = await besideThisCommand(name)
    if (found !== undefined) return { ...beside, backend: found }
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
