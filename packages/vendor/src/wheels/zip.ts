import { createWriteStream } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import type { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import * as yauzl from 'yauzl'

/**
 * Unpacks the wanted entries of a zip file into a folder. Wanted are paths; one that ends with `/`
 * is a folder. Names that would leave the folder are refused by yauzl.
 *
 * @returns the wanted paths that the file does not hold
 */
export async function unpack(
  file: string,
  folder: string,
  wanted: readonly string[],
  options: {
    signal?: AbortSignal | undefined
    onEntry?: (done: number, total: number) => void
  } = {},
): Promise<string[]> {
  const missing = new Set(wanted)
  const zip = await open(file)
  try {
    let read = 0
    for await (const entry of entries(zip)) {
      options.signal?.throwIfAborted()
      options.onEntry?.(++read, zip.entryCount)
      const name = entry.fileName
      const match = wanted.find((path) =>
        path.endsWith('/') ? name.startsWith(path) : name === path,
      )
      if (match === undefined || name.endsWith('/')) continue
      missing.delete(match)
      const target = join(folder, name)
      await mkdir(dirname(target), { recursive: true })
      const executable = ((entry.externalFileAttributes >>> 16) & 0o111) !== 0
      await pipeline(
        await readEntry(zip, entry),
        createWriteStream(target, { mode: executable ? 0o755 : 0o644, flags: 'wx' }),
      )
    }
  } finally {
    zip.close()
  }
  return [...missing]
}

/**
 * One member of a zip file as a stream of its uncompressed bytes.
 *
 * @throws Error when the file is no zip file or has no such member
 */
export async function openMember(file: string, member: string): Promise<Readable> {
  const zip = await open(file)
  try {
    for await (const entry of entries(zip)) {
      if (entry.fileName === member) return await readEntry(zip, entry)
    }
    throw new Error(`${file} has no member ${member}`)
  } finally {
    zip.close() // the file itself is closed once the stream has ended
  }
}

function open(file: string): Promise<yauzl.ZipFile> {
  return new Promise((resolve, reject) => {
    yauzl.open(file, { lazyEntries: true, autoClose: false }, (error, zip) => {
      if (error) reject(error)
      else resolve(zip)
    })
  })
}

async function* entries(zip: yauzl.ZipFile): AsyncGenerator<yauzl.Entry> {
  for (;;) {
    const entry = await new Promise<yauzl.Entry | undefined>((resolve, reject) => {
      const done = (): void => {
        zip.removeAllListeners('entry').removeAllListeners('end').removeAllListeners('error')
      }
      zip.once('entry', (value: yauzl.Entry) => {
        done()
        resolve(value)
      })
      zip.once('end', () => {
        done()
        resolve(undefined)
      })
      zip.once('error', (error: Error) => {
        done()
        reject(error)
      })
      zip.readEntry()
    })
    if (entry === undefined) return
    yield entry
  }
}

function readEntry(zip: yauzl.ZipFile, entry: yauzl.Entry): Promise<Readable> {
  return new Promise((resolve, reject) => {
    zip.openReadStream(entry, (error, stream) => {
      if (error) reject(error)
      else resolve(stream)
    })
  })
}
