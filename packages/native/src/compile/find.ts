import { existsSync, readFileSync, realpathSync } from 'node:fs'
import { dirname, isAbsolute, join, resolve } from 'node:path'
import { KvxError } from '@kvx/contract'

/**
 * The folder of a package of kvx, given by name or as a path. By name it is looked up as Node would from `from`, and
 * then from the packages of kvx installed there: package managers may hide what the project did not name itself.
 *
 * @throws KvxError `ERR_KVX_INVALID_ARGUMENT` when it is not there
 */
export function findPackage(nameOrPath: string, from: string): string {
  if (nameOrPath.startsWith('.') || isAbsolute(nameOrPath)) {
    const folder = resolve(from, nameOrPath)
    if (existsSync(join(folder, 'package.json'))) return realpathSync(folder)
    throw new KvxError(
      'ERR_KVX_INVALID_ARGUMENT',
      `${folder} is no package: it has no package.json.`,
    )
  }
  const seen = new Set<string>()
  for (let places = [realpathSync(from)]; places.length > 0;) {
    const next: string[] = []
    for (const place of places) {
      seen.add(place)
      const folder = installed(nameOrPath, place)
      if (folder !== undefined) return folder
      for (const name of kvxDependencies(place)) {
        const inner = installed(name, place)
        if (inner !== undefined && !seen.has(inner)) next.push(inner)
      }
    }
    places = next
  }
  throw new KvxError(
    'ERR_KVX_INVALID_ARGUMENT',
    `${nameOrPath} is not installed in ${from}: run this in the project that uses it, or give its folder.`,
  )
}

/** Where `name` lies for a file in `folder`; undefined when it is not installed. */
function installed(name: string, folder: string): string | undefined {
  for (let at = folder; ; at = dirname(at)) {
    const candidate = join(at, 'node_modules', name)
    if (existsSync(join(candidate, 'package.json'))) return realpathSync(candidate)
    if (dirname(at) === at) return undefined
  }
}

function kvxDependencies(folder: string): string[] {
  const file = join(folder, 'package.json')
  if (!existsSync(file)) return []
  const manifest = JSON.parse(readFileSync(file, 'utf8')) as Record<string, object | undefined>
  const names = ['dependencies', 'devDependencies', 'optionalDependencies'].flatMap((kind) =>
    Object.keys(manifest[kind] ?? {}),
  )
  return names.filter((name) => name === 'kvx' || name.startsWith('@kvx/'))
}
