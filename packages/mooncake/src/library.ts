import { readdir, stat } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { listInstalled, pythonPackage, type Attempt } from '@kvx/vendor'
import type { CheckedOptions } from './options.ts'
import { defaultFlavour, tooOld } from './wheel.ts'

/** A library that may be Mooncake's. */
export interface Library {
  /** Absolute path of an engine.so or a libtransfer_engine.so. */
  readonly path: string
  /** Undefined when nothing beside the file tells it. */
  readonly version: string | undefined
  /** Project name of its wheel, when it lies in one. */
  readonly project: string | undefined
}

const fileNames = ['libtransfer_engine.so', 'engine.so']

/**
 * Where Mooncake may be, in the order in which it is tried: `libraryPath` alone when it is given; what kvx installed,
 * wheels for GPUs before the plain one, newest first; `libtransfer_engine.so` of the system; the `mooncake` package of
 * the python3 on the PATH. What cannot be used is added to `tried`.
 */
export async function* candidates(
  options: Pick<CheckedOptions, 'libraryPath' | 'flavour'>,
  tried: Attempt[],
): AsyncGenerator<Library> {
  for await (const place of places(options, tried)) {
    const path = await fileAt(place)
    if (path === undefined) {
      tried.push({ what: place, reason: `there is no ${fileNames.join(' or ')}` })
      continue
    }
    const library = await describe(path)
    const why = library.version === undefined ? undefined : tooOld(library.version)
    if (why === undefined) yield library
    else tried.push({ what: path, reason: why })
  }
}

async function* places(
  options: Pick<CheckedOptions, 'libraryPath' | 'flavour'>,
  tried: Attempt[],
): AsyncGenerator<string> {
  if (options.libraryPath !== undefined) {
    yield resolve(options.libraryPath)
    return
  }
  const wanted = options.flavour
  const installed = (await listInstalled('mooncake')).filter(
    ({ flavour }) => wanted === undefined || flavour === wanted,
  )
  if (installed.length === 0) {
    const what = wanted === undefined ? 'Mooncake' : `the flavour ${wanted} of Mooncake`
    tried.push({ what: 'the cache of kvx', reason: `${what} was not installed there` })
  }
  const plainLast = installed.toSorted(
    (a, b) => Number(a.flavour === defaultFlavour) - Number(b.flavour === defaultFlavour),
  )
  for (const { folder } of plainLast) yield join(folder, 'mooncake')
  if (wanted !== undefined) return
  for (const folder of [
    '/usr/local/lib',
    `/usr/lib/${process.arch === 'x64' ? 'x86_64' : 'aarch64'}-linux-gnu`,
    '/usr/lib',
  ]) {
    const path = join(folder, 'libtransfer_engine.so')
    if (await isFile(path)) yield path
  }
  const python = await pythonPackage('mooncake', tried)
  if (python !== undefined) yield python
}

async function fileAt(place: string): Promise<string | undefined> {
  if (await isFile(place)) return place
  for (const name of fileNames) {
    const path = join(place, name)
    if (await isFile(path)) return path
  }
  return undefined
}

async function isFile(path: string): Promise<boolean> {
  return stat(path).then(
    (found) => found.isFile(),
    () => false,
  )
}

/** A wheel's metadata lies beside the package's folder. */
async function describe(path: string): Promise<Library> {
  const around = dirname(dirname(path))
  const names = basename(dirname(path)) === 'mooncake' ? await readdir(around).catch(() => []) : []
  for (const name of names) {
    const [, project, version] = /^(mooncake_transfer_engine\w*)-(.+)\.dist-info$/.exec(name) ?? []
    if (project === undefined || version === undefined) continue
    return { path, version, project: project.replaceAll('_', '-') }
  }
  return { path, version: undefined, project: undefined }
}
