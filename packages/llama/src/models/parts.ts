/** The files of one model: a single one, or all parts of one that was split. */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs'
import { stat } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { systemReason } from '@kvx/contract'
import { stampOf, type Stamped } from './remember.ts'
import { checkMetadata, refused, walkGguf, type Gguf, type Source } from './gguf.ts'

export interface ModelPart extends Stamped {
  readonly gguf: Gguf
}

const partName = /^(.*)-(\d{5})-of-(\d{5})\.gguf$/

/**
 * Walks over all files of the model that `path` is, or is the first part of.
 *
 * @throws KvxError `ERR_KVX_MODEL` for a file that is missing, damaged, no GGUF, no first part, or without
 *   a vocabulary
 */
export async function readModel(path: string): Promise<readonly ModelPart[]> {
  const first = await readPart(path)
  const parts = [first]
  const paths = partPaths(first)
  for (const next of paths.slice(1)) parts.push(await readPart(next))
  checkParts(parts)
  checkMetadata(first.gguf, path)
  return parts
}

async function readPart(path: string): Promise<ModelPart> {
  try {
    // Opening anything else may wait for ever.
    const info = await stat(path)
    if (info.isDirectory()) throw refused(path, 'is a folder.')
    if (!info.isFile()) throw refused(path, 'is not a regular file.')
    const stamp = await stampOf(path)
    const file = openSync(path, 'r')
    try {
      return { path, stamp, gguf: walkGguf(sourceOf(file), path) }
    } finally {
      closeSync(file)
    }
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    if (code?.startsWith('ERR_KVX') === true) throw cause
    const what = code === 'ENOENT' ? 'does not exist' : `cannot be read: ${systemReason(cause)}`
    throw refused(path, `${what}.`, cause)
  }
}

/** Reads ahead, for a walk takes a few bytes at a time. */
function sourceOf(file: number): Source {
  const { size } = fstatSync(file)
  const window = Buffer.alloc(2 ** 20)
  let from = 0
  let to = 0
  return {
    bytes: size,
    read(offset, length) {
      if (offset < from || offset + length > to) {
        from = offset
        to = offset + readSync(file, window, 0, window.length, offset)
        if (offset + length > to) throw new Error('it became shorter while it was read')
      }
      return window.subarray(offset - from, offset - from + length)
    },
  }
}

/** Of all parts in order, by the name of the first, as llama.cpp finds them. */
function partPaths({ path, gguf }: ModelPart): string[] {
  const name = partName.exec(basename(path))
  const count = number(gguf, 'split.count') ?? 1
  if (count <= 1 && !name) return [path]
  const [, stem = '', no = '', of = ''] = name ?? []
  if (count <= 1) {
    throw refused(path, `is named as part ${no} of ${of}, but is a whole model: rename it.`)
  }
  if (Number(of) !== count) {
    throw refused(
      path,
      `is a part of a model in ${String(count)} files, which are named NAME-00001-of-${pad(count)}.gguf and so on: rename them.`,
    )
  }
  const paths = Array.from({ length: count }, (_, i) =>
    join(dirname(path), `${stem}-${pad(i + 1)}-of-${of}.gguf`),
  )
  if (Number(no) !== 1) {
    throw refused(
      path,
      `is part ${no} of a model in ${of} files: give the first, ${paths[0] ?? ''}.`,
    )
  }
  return paths
}

function checkParts(parts: readonly ModelPart[]): void {
  const [first] = parts
  if (!first) return
  const names = new Set<string>()
  let tensors = 0
  parts.forEach(({ path, gguf }, i) => {
    if (parts.length > 1) {
      if (number(gguf, 'split.no') !== i || number(gguf, 'split.count') !== parts.length) {
        throw refused(
          path,
          `is not part ${String(i + 1)} of ${String(parts.length)}, as its name says.`,
        )
      }
    }
    for (const { name } of gguf.tensors) {
      if (names.has(name)) throw refused(path, `has the tensor ${name}, as another part does.`)
      names.add(name)
    }
    tensors += gguf.tensors.length
  })
  if (tensors === 0) throw refused(first.path, 'is a GGUF file without any tensor.')
  const promised = number(first.gguf, 'split.tensors.count')
  if (parts.length > 1 && promised !== tensors) {
    throw refused(
      first.path,
      `promises ${String(promised)} tensors, but its ${String(parts.length)} parts have ${String(tensors)}.`,
    )
  }
}

function number(gguf: Gguf, key: string): number | undefined {
  const value = gguf.values.get(key)?.value
  return typeof value === 'number' ? value : undefined
}

function pad(part: number): string {
  return String(part).padStart(5, '0')
}
