import type { ModelPart } from './parts.ts'

/** llama.cpp rounds the cells of a sequence up to this. */
const cellStep = 256

/** Cells of one sequence of a context for requests of `contextLength` tokens. */
export function cellsFor(contextLength: number): number {
  // One more than is used, since the last cell would start a shift of the context.
  return Math.ceil((contextLength + 1) / cellStep) * cellStep
}

/**
 * What decides the numbers in a cache beside the content of the model. Other options (page size, chunks,
 * sequences, threads; the context length of a model without such factors) leave every bit as it is.
 *
 * @param release of llama.cpp: another may compute something else
 * @param trained tokens of context that the model was trained on
 */
export function cacheSettings(
  parts: readonly ModelPart[],
  contextLength: number,
  trained: number,
  release: string,
): Record<string, string> {
  const settings = { 'llama.cpp': release }
  if (!hasTwoSetsOfFactors(parts)) return settings
  const original = originalContext(parts) ?? trained
  const isLong = cellsFor(contextLength) > original
  // The longest context whose cells are no more than the original ones.
  const last = Math.max(0, Math.floor(original / cellStep) * cellStep - 1)
  const factors = isLong
    ? `long, as the context length is above ${String(last)} tokens`
    : `short, as the context length is at most ${String(last)} tokens`
  return { ...settings, 'RoPE factors': factors }
}

/** One for short contexts, one for long ones: llama.cpp takes either by the size of the whole context. */
function hasTwoSetsOfFactors(parts: readonly ModelPart[]): boolean {
  return parts.some(({ gguf }) =>
    gguf.tensors.some(({ name }) => /rope_factors_(long|short)/.test(name)),
  )
}

function originalContext(parts: readonly ModelPart[]): number | undefined {
  const values = parts[0]?.gguf.values
  const architecture = String(values?.get('general.architecture')?.value)
  const value = values?.get(`${architecture}.rope.scaling.original_context_length`)?.value
  return typeof value === 'number' ? value : undefined
}
