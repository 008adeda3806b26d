import { homedir } from 'node:os'
import { join, resolve } from 'node:path'

/** Where kvx keeps what it downloads: `KVX_CACHE`, else `kvx` in the user's cache directory (XDG). */
export function cacheDirectory(env: NodeJS.ProcessEnv = process.env): string {
  if (env.KVX_CACHE) return resolve(env.KVX_CACHE)
  return join(env.XDG_CACHE_HOME ? resolve(env.XDG_CACHE_HOME) : join(homedir(), '.cache'), 'kvx')
}
