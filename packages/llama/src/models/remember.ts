/**
 * Digests that took long to compute, kept in the cache folder until a file that they are of changes. A
 * cache that is damaged or cannot be written costs time and nothing else.
 */
import { createHash, randomBytes } from 'node:crypto'
import { mkdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { cacheFolder } from '@kvx/vendor'
import { refused } from './gguf.ts'

/** A file as it was at one moment. */
export interface Stamped {
  readonly path: string
  /** Another one whenever the file has changed. */
  readonly stamp: string
}

// A file that changes twice within one tick of its file system's clock looks as if it had changed once.
const settledNs = 2_000_000_000n

/**
 * The digest that `compute` gives for these files.
 *
 * @param kind tells digests of the same files apart; another algorithm is another kind
 * @param compute gives lower-case hex
 * @throws KvxError `ERR_KVX_MODEL` when a file changes meanwhile; and what `compute` throws
 */
export async function remembered(
  kind: string,
  files: readonly Stamped[],
  compute: () => Promise<string>,
): Promise<string> {
  const stamps = files.map(({ stamp }) => stamp)
  const places = files.map(({ path }) => resolve(path))
  const name = createHash('sha256')
    .update(JSON.stringify([kind, places]))
    .digest('hex')
  const entry = join(cacheFolder(), 'digests', `${name.slice(0, 32)}.json`)
  const known = await recall(entry, stamps)
  if (known !== undefined) return known
  const digest = await compute()
  await checkUnchanged(files)
  if (await areSettled(places)) await keep(entry, stamps, digest)
  return digest
}

/** @throws KvxError `ERR_KVX_MODEL` for the first file that is not as it was */
export async function checkUnchanged(files: readonly Stamped[]): Promise<void> {
  for (const { path, stamp } of files) {
    const now = await stampOf(path).catch(() => undefined)
    if (now !== stamp) throw refused(path, 'was changed while it was being read. Start again.')
  }
}

/** `ctime` also tells of a change after which `mtime` was put back. */
export async function stampOf(path: string): Promise<string> {
  const { dev, ino, size, mtimeNs, ctimeNs } = await stat(path, { bigint: true })
  return [dev, ino, size, mtimeNs, ctimeNs].join(' ')
}

async function areSettled(paths: readonly string[]): Promise<boolean> {
  const now = BigInt(Date.now()) * 1_000_000n
  const infos = await Promise.all(paths.map((path) => stat(path, { bigint: true })))
  return infos.every(
    ({ mtimeNs, ctimeNs }) => now - mtimeNs > settledNs && now - ctimeNs > settledNs,
  )
}

async function recall(entry: string, stamps: readonly string[]): Promise<string | undefined> {
  try {
    const kept = JSON.parse(await readFile(entry, 'utf8')) as { stamps?: unknown; digest?: unknown }
    const { digest } = kept
    const same = JSON.stringify(kept.stamps) === JSON.stringify(stamps)
    return same && typeof digest === 'string' && /^[0-9a-f]{64}$/.test(digest) ? digest : undefined
  } catch {
    return undefined
  }
}

async function keep(entry: string, stamps: readonly string[], digest: string): Promise<void> {
  const fresh = `${entry}.${randomBytes(6).toString('hex')}`
  try {
    await mkdir(dirname(entry), { recursive: true })
    await writeFile(fresh, JSON.stringify({ stamps, digest }))
    await rename(fresh, entry)
  } catch {
    await rm(fresh, { force: true }).catch(() => undefined)
  }
}
