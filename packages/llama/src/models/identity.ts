/**
 * What identifies a model: a digest over the whole of its content, metadata and every byte of every
 * tensor. How the content is spread over files does not count: a split model and the same in one piece
 * have one identity.
 */
import { createHash, webcrypto } from 'node:crypto'
import { open, type FileHandle } from 'node:fs/promises'
import type { ModelPart } from './parts.ts'
import { refused } from './gguf.ts'
import { remembered } from './remember.ts'

export interface ReadProgress {
  readonly phase: 'read'
  readonly bytes: number
  readonly totalBytes: number
}

interface Span {
  readonly file: FileHandle
  readonly path: string
  readonly offset: number
  readonly bytes: number
}

const chunkBytes = 4 * 2 ** 20
/** Chunks that are read and digested at the same time, by the threads of libuv. */
const atOnce = 4

/**
 * 64 hex digits. The files are read whole once, and again only after they have changed.
 *
 * @throws KvxError `ERR_KVX_MODEL` when a file cannot be read or changes meanwhile
 */
export function identityOf(
  parts: readonly ModelPart[],
  onProgress: (progress: ReadProgress) => void = () => undefined,
): Promise<string> {
  const paths = parts.map(({ path }) => path)
  return remembered('model content 1', parts, async () => {
    const files = await Promise.all(paths.map((path) => open(path, 'r')))
    try {
      return await digestContent(parts, files, onProgress)
    } finally {
      await Promise.all(files.map((file) => file.close()))
    }
  })
}

async function digestContent(
  parts: readonly ModelPart[],
  files: readonly FileHandle[],
  onProgress: (progress: ReadProgress) => void,
): Promise<string> {
  const metadata: { about: readonly unknown[]; span: Span }[] = []
  const tensors: { about: readonly unknown[]; span: Span }[] = []
  parts.forEach(({ path, gguf }, i) => {
    const file = files[i]
    if (!file) throw new RangeError('a file per part')
    for (const [key, { start, end }] of gguf.values) {
      // They say how it was split, and no more.
      if (key.startsWith('split.')) continue
      metadata.push({ about: [key], span: { file, path, offset: start, bytes: end - start } })
    }
    for (const { name, type, dims, offset, bytes } of gguf.tensors) {
      tensors.push({ about: [name, type, dims], span: { file, path, offset, bytes } })
    }
  })
  const all = [...metadata, ...tensors]
  const totalBytes = all.reduce((sum, { span }) => sum + span.bytes, 0)
  const digests = await digestSpans(
    all.map(({ span }) => span),
    (bytes) => {
      onProgress({ phase: 'read', bytes, totalBytes })
    },
  )
  const lines = all.map(({ about }, i) => JSON.stringify([...about, digests[i]]))
  const sorted = (from: number, to?: number) => lines.slice(from, to).sort()
  return createHash('sha256')
    .update(JSON.stringify([sorted(0, metadata.length), sorted(metadata.length)]))
    .digest('hex')
}

/** Of each span the SHA-256 over the SHA-256 of its chunks, so that chunks are independent of each other. */
async function digestSpans(
  spans: readonly Span[],
  onBytes: (bytes: number) => void,
): Promise<string[]> {
  const chunks = spans.map(() => [] as Buffer[])
  const tasks = tasksOf(spans)
  let done = 0
  const work = async () => {
    for (const { index, number, bytes, offset } of tasks) {
      const { file, path } = spans[index]!
      const chunk = Buffer.allocUnsafe(bytes)
      const { bytesRead } = await file.read(chunk, 0, bytes, offset)
      if (bytesRead !== bytes) throw refused(path, 'became shorter while it was read.')
      const digest = await webcrypto.subtle.digest('SHA-256', chunk)
      const list = chunks[index]!
      list[number] = Buffer.from(digest)
      done += bytes
      onBytes(done)
    }
  }
  await Promise.all(Array.from({ length: atOnce }, work))
  return chunks.map((list) => createHash('sha256').update(Buffer.concat(list)).digest('hex'))
}

function* tasksOf(spans: readonly Span[]) {
  for (const [index, { offset, bytes }] of spans.entries()) {
    for (let from = 0, number = 0; from < bytes; from += chunkBytes, number++) {
      yield { index, number, offset: offset + from, bytes: Math.min(chunkBytes, bytes - from) }
    }
  }
}
