import { refused } from './gguf.ts'
import { readModel } from './parts.ts'

/**
 * Tokens of context that a model was trained on, without loading it.
 *
 * @throws KvxError `ERR_KVX_MODEL` as `readModel`, and for a file that does not say it
 */
export async function trainedContext(path: string): Promise<number> {
  const [first] = await readModel(path)
  const values = first?.gguf.values
  const architecture = String(values?.get('general.architecture')?.value)
  const length = Number(values?.get(`${architecture}.context_length`)?.value)
  if (Number.isSafeInteger(length) && length > 0) return length
  throw refused(path, 'does not say how much context the model was trained on.')
}
