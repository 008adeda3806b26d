import { userInfo } from 'node:os'
import { join, resolve } from 'node:path'
import { invalidOption } from './errors.ts'

/**
 * The user's own folder, or undefined: containers have users without one. An empty `HOME` counts as unset.
 */
export function homeFolder(env: NodeJS.ProcessEnv = process.env): string | undefined {
  if (env.HOME) return env.HOME
  try {
    return userInfo().homedir
  } catch {
    return undefined // a user without an entry in the user database
  }
}

/**
 * Where kvx keeps what it downloads: `KVX_CACHE`, else `kvx` in the user's cache directory (XDG).
 * Variables that are empty count as unset.
 *
 * @throws KvxError `ERR_KVX_INVALID_OPTION` when there is no such folder
 */
export function cacheFolder(env: NodeJS.ProcessEnv = process.env): string {
  if (env.KVX_CACHE) return resolve(env.KVX_CACHE)
  if (env.XDG_CACHE_HOME) return join(resolve(env.XDG_CACHE_HOME), 'kvx')
  const home = homeFolder(env)
  if (home) return join(home, '.cache', 'kvx')
  throw invalidOption(
    'This user has no home folder for the cache of kvx: set KVX_CACHE to a folder that can be written.',
  )
}
