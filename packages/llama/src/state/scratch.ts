import { randomBytes } from 'node:crypto'
import { open, statfs, unlink, type FileHandle } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { LlamaContextSequence } from 'node-llama-cpp'
import { KvxError } from '@kvx/contract'
import { allocate, type AllocatedMemory } from '@kvx/native'

// llama.cpp, as bound here, saves and loads states by file only. It loads them out of memory files. It empties a file before it
// saves to it, which a mapped one must not suffer: those files are in memory where there is room, readable by this user alone,
// and have lost their name before anything is in them. Whatever happens to the process, nothing stays behind.

/**
 * Memory for one state at a time, as large as the largest so far: fresh pages of the system cost more than the copies that
 * go through them.
 */
export class StateMemory {
  #memory: AllocatedMemory | undefined

  /** Of `bytes`, with what was left there before. @throws KvxError `ERR_KVX_MEMORY` */
  view(bytes: number): Buffer {
    if (this.#memory === undefined || this.#memory.bytes < bytes) {
      this.free()
      this.#memory = allocate(bytes)
    }
    const { buffer, byteOffset, byteLength } = this.#memory.view(0, bytes)
    return Buffer.from(buffer, byteOffset, byteLength)
  }

  /** Replaces the state of a sequence by what the view holds. The caller has checked it. */
  async load(sequence: LlamaContextSequence): Promise<void> {
    if (this.#memory === undefined) throw new Error('there is no state to load')
    await sequence.loadStateFromFile(pathOf(this.#memory.fd), { acceptRisk: true })
  }

  free(): void {
    this.#memory?.free()
    this.#memory = undefined
  }
}

/** A file to which llama.cpp saves the states of one prompt, one after the other. */
export class StateFile {
  readonly #file: FileHandle

  /** @param bytes of the largest of the states */
  static async open(bytes: number): Promise<StateFile> {
    return new StateFile(await openScratchFile(bytes))
  }

  private constructor(file: FileHandle) {
    this.#file = file
  }

  async save(sequence: LlamaContextSequence): Promise<void> {
    await sequence.saveStateToFile(pathOf(this.#file.fd))
  }

  /** What was saved last, out of the file into memory; never more than `atMost` + 1 bytes of it. */
  async take(memory: StateMemory, atMost: number): Promise<Buffer> {
    const { size } = await this.#file.stat()
    const blob = memory.view(Math.min(size, atMost + 1))
    for (let offset = 0; offset < blob.length;) {
      // One call reads at most 2 GiB, and may read less than asked for.
      const length = Math.min(blob.length - offset, 2 ** 30)
      const { bytesRead } = await this.#file.read(blob, offset, length, offset)
      if (bytesRead === 0) throw new Error('a state file ended early')
      offset += bytesRead
    }
    await this.#file.truncate()
    return blob
  }

  close(): Promise<void> {
    return this.#file.close()
  }
}

/** The state of a sequence; never more than `atMost` + 1 bytes of it. */
export async function saveState(
  sequence: LlamaContextSequence,
  memory: StateMemory,
  atMost: number,
): Promise<Buffer> {
  const file = await StateFile.open(atMost)
  try {
    await file.save(sequence)
    return await file.take(memory, atMost)
  } finally {
    await file.close()
  }
}

function pathOf(fd: number): string {
  return `/proc/self/fd/${String(fd)}`
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
