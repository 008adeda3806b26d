import { randomBytes } from 'node:crypto'
import { open, statfs, unlink, type FileHandle } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { LlamaContextSequence } from 'node-llama-cpp'
import { KvxError } from '@kvx/contract'

// llama.cpp, as bound here, saves and loads states by file only. The files are in memory where there is
// room, readable by this user alone, and have lost their name before anything is in them: whatever
// happens to the process, nothing stays behind.

/** The state of a sequence; never more than `atMost` + 1 bytes of it. */
export async function saveState(sequence: LlamaContextSequence, atMost: number): Promise<Buffer> {
  return withScratchFile(atMost, async (file, path) => {
    await sequence.saveStateToFile(path)
    const { size } = await file.stat()
    const blob = Buffer.allocUnsafe(Math.min(size, atMost + 1))
    await wholly(
      blob.length,
      (offset, length) => file.read(blob, offset, length, offset),
      'bytesRead',
    )
    return blob
  })
}

/** Replaces the state of a sequence. The caller has checked the blob. */
export async function loadState(sequence: LlamaContextSequence, blob: Buffer): Promise<void> {
  await withScratchFile(blob.length, async (file, path) => {
    await wholly(
      blob.length,
      (offset, length) => file.write(blob, offset, length, offset),
      'bytesWritten',
    )
    await sequence.loadStateFromFile(path, { acceptRisk: true })
  })
}

async function withScratchFile<T>(
  bytes: number,
  use: (file: FileHandle, path: string) => Promise<T>,
): Promise<T> {
  const file = await openScratchFile(bytes)
  try {
    return await use(file, `/proc/self/fd/${String(file.fd)}`)
  } finally {
    await file.close()
  }
}

/** In memory, unless there is little of it or it may not be written, as is often so in containers. */
async function openScratchFile(bytes: number): Promise<FileHandle> {
  const memory = '/dev/shm'
  const info = await statfs(memory).catch(() => undefined)
  const folders = info && info.bavail * info.bsize > 4 * bytes ? [memory, tmpdir()] : [tmpdir()]
  const failures: string[] = []
  for (const folder of folders) {
    const name = join(folder, `kvx-${randomBytes(12).toString('hex')}`)
    try {
      const file = await open(name, 'wx+', 0o600)
      try {
        await unlink(name)
        return file
      } catch (cause) {
        await file.close()
        throw cause
      }
    } catch (cause) {
      failures.push((cause as Error).message)
    }
  }
  throw new KvxError(
    'ERR_KVX_MEMORY',
    `No file for the state of a request can be made: ${failures.join('; ')}. Set TMPDIR to a folder that can be written, or give the container a /dev/shm.`,
  )
}

/** One call moves at most 2 GiB, and may move less than asked for. */
async function wholly<Key extends 'bytesRead' | 'bytesWritten'>(
  length: number,
  move: (offset: number, length: number) => Promise<Record<Key, number>>,
  key: Key,
): Promise<void> {
  for (let offset = 0; offset < length;) {
    const moved = (await move(offset, Math.min(length - offset, 2 ** 30)))[key]
    if (moved === 0) throw new Error('a state file ended early')
    offset += moved
  }
}
