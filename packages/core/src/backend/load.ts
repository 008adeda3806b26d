import { createRequire } from 'node:module'
import { isAbsolute, resolve } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { checked, exactly, isObject, such, text } from '../arguments.ts'
import { backendSymbol, contractVersion, isBackend, KvxError, type Backend } from '@kvx/contract'

/** How a host names a backend. */
export const backendSchema = such<unknown>(
  'a name or a Backend',
  (value) => (typeof value === 'string' && value !== '') || isObject(value),
)

/** Those that kvx itself publishes, as `@kvx/<name>`. */
export const publishedBackends: readonly string[] = ['shm', 'mooncake', 'mori']

/**
 * Finds a backend by name. A `Backend` object is taken as it is; a name is resolved as `@kvx/<name>`,
 * then as a package specifier or file path, from the folder of the *host* (`from`: a folder, a file or
 * a file URL), because the host decides which backends are installed.
 *
 * @throws KvxError `ERR_KVX_BACKEND_NOT_INSTALLED`, `ERR_KVX_BACKEND_INVALID`,
 *   `ERR_KVX_BACKEND_UNAVAILABLE` when the package is there but cannot be loaded; `ERR_KVX_INVALID_ARGUMENT`
 */
export async function loadBackend(
  backend: string | Backend,
  options: { from: string },
): Promise<Backend> {
  const argument = { code: 'ERR_KVX_INVALID_ARGUMENT', phase: 'open' } as const
  checked(backendSchema, backend, { ...argument, name: 'backend' })
  checked(where, options, { ...argument, name: 'options' })
  if (typeof backend !== 'string') {
    if (isBackend(backend)) return backend
    throw invalid('the object given as backend', backend)
  }
  const from = options.from.startsWith('file:')
    ? fileURLToPath(options.from)
    : resolve(options.from)
  const path = locate(backend, from)
  if (path === undefined) {
    throw new KvxError('ERR_KVX_BACKEND_NOT_INSTALLED', notThere(backend, from), { phase: 'open' })
  }
  let module: { default?: unknown; backend?: unknown }
  try {
    module = (await import(pathToFileURL(path).href)) as typeof module
  } catch (cause) {
    throw new KvxError(
      'ERR_KVX_BACKEND_UNAVAILABLE',
      `The transfer backend '${backend}' could not be loaded from ${path}: ${(cause as Error).message}`,
      { cause, phase: 'open' },
    )
  }
  if (isBackend(module.default)) return module.default
  throw invalid(path, module.default)
}

const where = exactly({ from: text })

function notThere(name: string, from: string): string {
  if (publishedBackends.includes(name)) {
    return `The transfer backend '${name}' is not installed. Install it with: npm install @kvx/${name}`
  }
  const published = publishedBackends.join(', ')
  return isPath(name)
    ? `There is no transfer backend '${name}': no such file as seen from ${from}.`
    : `There is no transfer backend '${name}': kvx has ${published}, and no package '@kvx/${name}' or '${name}' is installed as seen from ${from}.`
}

const isPath = (name: string): boolean => name.startsWith('.') || isAbsolute(name)

function locate(name: string, from: string): string | undefined {
  // createRequire wants a file; a folder is given one that need not exist.
  const require = createRequire(/\.[cm]?[jt]s$/.test(from) ? from : resolve(from, 'noop.js'))
  const base = /\.[cm]?[jt]s$/.test(from) ? resolve(from, '..') : from
  const specifiers = isPath(name) ? [resolve(base, name)] : [`@kvx/${name}`, name]
  for (const specifier of specifiers) {
    try {
      const path = require.resolve(specifier)
      if (isAbsolute(path)) return path // a bare name may resolve to a module of Node itself
    } catch {
      // The next specifier; the caller reports when none fits.
    }
  }
  return undefined
}

function invalid(what: string, value: unknown): KvxError {
  const found = (value as { [backendSymbol]?: unknown } | null | undefined)?.[backendSymbol]
  return new KvxError(
    'ERR_KVX_BACKEND_INVALID',
    found === undefined
      ? `${what} is no kvx backend: its default export lacks Symbol.for('@kvx/backend') or a method of the contract.`
      : `${what} follows version ${JSON.stringify(found)} of the backend contract; this kvx needs version ${String(contractVersion)}.`,
    { phase: 'open' },
  )
}
