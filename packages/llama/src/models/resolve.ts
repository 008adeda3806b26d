import { basename, resolve } from 'node:path'
import { installBinding } from '../binding.ts'
import { knownModel, unknownModel } from './catalogue.ts'
import { readModel } from './parts.ts'
import { pullModel, type PullOptions } from './pull.ts'

export interface ResolvedModel {
  /** The name of the catalogue, else the file name without `.gguf`. */
  readonly name: string
  readonly path: string
}

/**
 * A model file for `nameOrPath`. A name of the catalogue is pulled when it is not in the cache; anything
 * that has a slash or ends with `.gguf` is a path. llama.cpp, which the model is for, is installed as well when it is not there.
 *
 * @throws KvxError `ERR_KVX_MODEL` for an unknown name, a missing file, a file that is no GGUF, or what
 *   `pullModel` throws; when llama.cpp cannot be installed
 */
export async function resolveModel(
  nameOrPath: string,
  options: PullOptions = {},
): Promise<ResolvedModel> {
  if (knownModel(nameOrPath)) {
    await install(options)
    return { name: nameOrPath, path: await pullModel(nameOrPath, options) }
  }
  if (!/[/\\]/.test(nameOrPath) && !/\.gguf$/i.test(nameOrPath)) throw unknownModel(nameOrPath)
  const path = resolve(nameOrPath)
  await readModel(path)
  if (await install(options)) options.onProgress?.({ phase: 'done', bytes: 0, totalBytes: 0 })
  return { name: basename(path).replace(/\.gguf$/i, ''), path }
}

function install({ onProgress, signal }: PullOptions): Promise<boolean> {
  return installBinding({
    onProgress: ({ bytes, totalBytes }) => onProgress?.({ phase: 'install', bytes, totalBytes }),
    signal,
  })
}
