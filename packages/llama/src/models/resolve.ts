import { basename, resolve } from 'node:path'
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
 * that has a slash or ends with `.gguf` is a path.
 *
 * @throws KvxError `ERR_KVX_MODEL` for an unknown name, a missing file, a file that is no GGUF, or what
 *   `pullModel` throws
 */
export async function resolveModel(
  nameOrPath: string,
  options: PullOptions = {},
): Promise<ResolvedModel> {
  if (knownModel(nameOrPath)) {
    return { name: nameOrPath, path: await pullModel(nameOrPath, options) }
  }
  if (!/[/\\]/.test(nameOrPath) && !/\.gguf$/i.test(nameOrPath)) throw unknownModel(nameOrPath)
  const path = resolve(nameOrPath)
  await readModel(path)
  return { name: basename(path).replace(/\.gguf$/i, ''), path }
}
