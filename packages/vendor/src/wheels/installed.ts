import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { cacheFolder } from '../cache.ts'
import type { InstalledWheel, WheelSpec } from './spec.ts'

export const manifestName = 'kvx-wheel.json'

export function backendFolder(name: string, cache = cacheFolder()): string {
  return join(cache, 'backends', name)
}

export function wheelFolder(
  spec: Pick<WheelSpec, 'name' | 'version' | 'flavour'>,
  cache = cacheFolder(),
): string {
  const variant = spec.flavour ? `${spec.version}-${spec.flavour}` : spec.version
  return join(backendFolder(spec.name, cache), variant)
}

/** The unpacked wheel of this name, version and flavour, or undefined. */
export async function findInstalled(
  spec: Pick<WheelSpec, 'name' | 'version' | 'flavour'>,
  options: { cache?: string | undefined } = {},
): Promise<InstalledWheel | undefined> {
  return readManifest(wheelFolder(spec, options.cache))
}

/** Every unpacked wheel of a backend, newest version first. */
export async function listInstalled(
  name: string,
  options: { cache?: string | undefined } = {},
): Promise<InstalledWheel[]> {
  const folder = backendFolder(name, options.cache)
  const entries = await readdir(folder).catch(() => [])
  const found = await Promise.all(
    entries
      .filter((entry) => !entry.startsWith('.'))
      .map((entry) => readManifest(join(folder, entry))),
  )
  return found
    .filter((wheel) => wheel !== undefined)
    .sort((a, b) => b.version.localeCompare(a.version, 'en', { numeric: true }))
}

async function readManifest(folder: string): Promise<InstalledWheel | undefined> {
  try {
    const manifest = JSON.parse(
      await readFile(join(folder, manifestName), 'utf8'),
    ) as Partial<InstalledWheel>
    const { name, version, flavour, sha256, from } = manifest
    if (typeof name !== 'string' || typeof version !== 'string') return undefined
    if (typeof sha256 !== 'string' || typeof from !== 'string') return undefined
    return { folder, name, version, ...(flavour === undefined ? {} : { flavour }), sha256, from }
  } catch {
    return undefined // absent, or not ours: installing writes it anew
  }
}
