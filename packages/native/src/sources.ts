import { createHash, type Hash } from 'node:crypto'
import { existsSync, readFileSync, readdirSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'

/** `native/addon.json` of a package: what is compiled from its folder `native/`, all `.cc` files of which make the addon. */
export interface Recipe {
  /** File name without extension: `kvx_shm`. */
  readonly name: string
  /**
   * The addon exchanges C++ objects with a vendor's library, which was built with GCC's standard library: it is
   * linked to `libstdc++.so.6` too, and can be made for no other.
   */
  readonly libstdcxx?: boolean
  /** Names of Node's for which it can be built: `linux-x64`. None: any Linux. */
  readonly platforms?: readonly string[]
  /** Shared libraries in C that lie beside the addon. Paths are relative to `native/`. */
  readonly libraries?: readonly {
    readonly soname: string
    readonly sources: readonly string[]
    readonly versionScript?: string
  }[]
}

/** The recipe of a package, or undefined where kvx's builder is not used or the sources are not there. */
export function recipeOf(folder: string): Recipe | undefined {
  const file = join(folder, 'native', 'addon.json')
  return existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as Recipe) : undefined
}

/** The folder with the headers `kvx/…` that a package is compiled with. */
export function headersFor(folder: string): string {
  const manifest = createRequire(join(folder, 'package.json')).resolve('@kvx/native/package.json')
  return join(dirname(manifest), 'include')
}

/** Precedes the fingerprint in a compiled addon, so that it can be read without loading the addon. */
export const fingerprintMark = 'kvx-compiled-from:'

/** Stands for the content of every file that an addon is compiled from: 64 hexadecimal digits. */
export function fingerprintOf(folder: string): string {
  const hash = createHash('sha256')
  addFolder(hash, join(folder, 'native'))
  addFolder(hash, headersFor(folder))
  return hash.digest('hex')
}

function addFolder(hash: Hash, folder: string): void {
  const files = readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .sort()
  for (const file of files) {
    hash.update(`\0${file.slice(folder.length)}\0`).update(readFileSync(file))
  }
}
