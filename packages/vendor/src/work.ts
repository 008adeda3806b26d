import { randomBytes } from 'node:crypto'
import { mkdir, readdir, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'

const prefix = '.partial-'

/**
 * Does `work` in a fresh folder below `parent`, which is made if need be, so that what is ready can be renamed to its
 * place; the folder is removed however `work` ends. Also removes what killed processes left there longer ago
 * than `abandonedAfterMs`, which no living one takes.
 */
export async function inWorkFolder<T>(
  parent: string,
  abandonedAfterMs: number,
  work: (folder: string) => Promise<T>,
): Promise<T> {
  const folder = join(parent, prefix + randomBytes(8).toString('hex'))
  try {
    await mkdir(folder, { recursive: true, mode: 0o700 })
    await removeAbandoned(parent, Date.now() - abandonedAfterMs)
    return await work(folder)
  } finally {
    // Why the work failed is what is told.
    await rm(folder, { recursive: true, force: true }).catch(() => undefined)
  }
}

async function removeAbandoned(parent: string, before: number): Promise<void> {
  for (const name of await readdir(parent)) {
    if (!name.startsWith(prefix)) continue
    const info = await stat(join(parent, name)).catch(() => undefined)
    if (info && info.mtimeMs < before)
      await rm(join(parent, name), { recursive: true, force: true })
  }
}
