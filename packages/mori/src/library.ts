import { readFile, stat } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { findInstalled, listInstalled, pythonPackage, type Attempt } from '@kvx/vendor'
import { defaultVersion, supportedVersions } from './wheel.ts'

export interface Library {
  /** Absolute path of libmori_io.so. */
  readonly path: string
  readonly version: string
}

const soname = 'libmori_io.so'

/**
 * Finds MORI: `libraryPath`, else what kvx installed (the default version first), else the `mori` package of the
 * python3 on the PATH. A given path is the only one that is tried.
 */
export async function findLibrary(
  libraryPath: string | undefined,
): Promise<{ library?: Library; tried: Attempt[] }> {
  const tried: Attempt[] = []
  for await (const path of candidates(libraryPath, tried)) {
    const result = await examine(path)
    if (typeof result !== 'string') return { library: result, tried }
    tried.push({ what: path, reason: result })
  }
  return { tried }
}

async function* candidates(
  libraryPath: string | undefined,
  tried: Attempt[],
): AsyncGenerator<string> {
  if (libraryPath !== undefined) {
    const given = resolve(libraryPath)
    yield basename(given).endsWith('.so') ? given : join(given, soname)
    return
  }
  const preferred = await findInstalled({ name: 'mori', version: defaultVersion })
  const others = await listInstalled('mori')
  const installed = [preferred, ...others].filter((wheel) => wheel !== undefined)
  if (installed.length === 0)
    tried.push({ what: 'the cache of kvx', reason: 'MORI was not installed there' })
  for (const folder of new Set(installed.map((wheel) => wheel.folder)))
    yield join(folder, 'mori', soname)
  const python = await pythonPackage('mori', tried)
  if (python !== undefined) yield join(python, soname)
}

async function examine(path: string): Promise<Library | string> {
  try {
    await stat(path)
  } catch {
    return 'no such file'
  }
  const file = join(dirname(path), '_version.py')
  const source = await readFile(file, 'utf8').catch(() => '')
  const version = /__version__\s*=\s*['"]([^'"]+)['"]/.exec(source)?.[1]
  if (version === undefined) return `its version is not known: ${file} does not tell it`
  if (!supportedVersions.includes(version)) {
    return `it is MORI ${version}; MORI's structures change between versions, and this kvx knows those of ${supportedVersions.join(', ')}`
  }
  return { path, version }
}
