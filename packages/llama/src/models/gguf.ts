import { open, stat } from 'node:fs/promises'
import { KvxError } from '@kvx/core/backend'
import { readGgufFileInfo } from 'node-llama-cpp'

const supportedVersions = [2, 3]

// The least that one entry of the metadata, and one of the list of tensors, takes.
const leastEntryBytes = 13
const leastTensorBytes = 24

/**
 * Refuses a file that cannot be a GGUF by its first bytes: magic, version, and counts that fit its size.
 *
 * @throws KvxError `ERR_KVX_MODEL`
 */
export async function checkHeader(path: string): Promise<void> {
  const header = Buffer.alloc(24)
  let read: number
  let size: number
  try {
    const file = await open(path, 'r')
    try {
      size = (await file.stat()).size
      read = (await file.read(header, 0, header.length, 0)).bytesRead
    } finally {
      await file.close()
    }
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code
    const what =
      code === 'ENOENT'
        ? 'does not exist'
        : code === 'EISDIR'
          ? 'is a folder'
          : `cannot be read (${code ?? String(cause)})`
    throw refused(path, `${what}.`, cause)
  }
  if (read < 4 || header.toString('latin1', 0, 4) !== 'GGUF') {
    throw refused(path, 'is not a GGUF file: it does not begin with "GGUF".')
  }
  if (read < header.length) throw refused(path, 'is cut off inside its header.')
  const version = header.readUInt32LE(4)
  if (!supportedVersions.includes(version)) {
    throw refused(
      path,
      `is a GGUF file of version ${String(version)}; versions ${supportedVersions.join(' and ')} can be read.`,
    )
  }
  const tensors = Number(header.readBigUInt64LE(8))
  const entries = Number(header.readBigUInt64LE(16))
  if (tensors === 0) throw refused(path, 'is a GGUF file without any tensor.')
  if (tensors * leastTensorBytes + entries * leastEntryBytes > size) {
    throw refused(path, 'is damaged or cut off: its header promises more than it holds.')
  }
}

/**
 * Refuses a file whose metadata or weights are damaged or cut off, before llama.cpp sees it.
 *
 * @throws KvxError `ERR_KVX_MODEL`
 */
export async function checkGguf(path: string): Promise<void> {
  await checkHeader(path)
  const { size } = await stat(path)
  const info = await readGgufFileInfo(path, {
    sourceType: 'filesystem',
    logWarnings: false,
    ignoreKeys: ['tokens', 'merges', 'token_type', 'scores'].map((key) => `tokenizer.ggml.${key}`),
  }).catch((cause: unknown) => {
    throw refused(path, `has damaged metadata: ${(cause as Error).message}`, cause)
  })
  // The parser reads zeros behind the end.
  if ((info.infoEndOffset ?? 0) > size) throw refused(path, 'is cut off inside its metadata.')
  const lastTensor = Math.max(...(info.tensorInfo ?? []).map((tensor) => Number(tensor.fileOffset)))
  if (lastTensor >= size) {
    throw refused(path, `is cut off inside its weights, after ${String(size)} bytes.`)
  }
}

export function refused(path: string, what: string, cause?: unknown): KvxError {
  return new KvxError('ERR_KVX_MODEL', `The model file ${path} ${what}`, { cause, phase: 'open' })
}
