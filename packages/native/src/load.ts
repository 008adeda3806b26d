import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'
import { KvxError } from '@kvx/contract'

const load = createRequire(import.meta.url)('node-gyp-build') as (folder: string) => unknown

/**
 * Loads the addon of a package: `prebuilds/` for this platform, or what was built in `build/Release/`.
 *
 * @throws KvxError `ERR_KVX_BACKEND_UNAVAILABLE`, which says how to build it
 */
// Only its author knows what an addon exports; a cast at every caller would say no more.
// eslint-disable-next-line @typescript-eslint/no-unnecessary-type-parameters
export function loadAddon<T>(packageFolder: URL | string, packageName: string): T {
  const folder = packageFolder instanceof URL ? fileURLToPath(packageFolder) : packageFolder
  try {
    return load(folder) as T
  } catch (cause) {
    const reason = cause instanceof Error ? (cause.message.split('\n')[0] ?? '') : String(cause)
    throw new KvxError(
      'ERR_KVX_BACKEND_UNAVAILABLE',
      `The native addon of ${packageName} cannot be loaded from ${folder}: ${reason}. ` +
        `Build it with: npm run native --workspace ${packageName}`,
      { cause, phase: 'open' },
    )
  }
}
