import { randomBytes } from 'node:crypto'
import { open, statfs, unlink, type FileHandle } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { LlamaContextSequence } from 'node-llama-cpp'

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
  const name = join(await folderWithRoom(bytes), `kvx-${randomBytes(12).toString('hex')}`)
  const file = await open(name, 'wx+', 0o600)
  try {
    await unlink(name)
    return await use(file, `/proc/self/fd/${String(file.fd)}`)
  } finally {
    await file.close()
  }
}

/** Memory, unless it is small, as /dev/shm often is in containers. */
async function folderWithRoom(bytes: number): Promise<string> {
  const memory = '/dev/shm'
  const info = await statfs(memory).catch(() => undefined)
  return info && info.bavail * info.bsize > 4 * bytes ? memory : tmpdir()
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
