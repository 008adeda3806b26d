import type { LlamaModel as Weights, Token } from 'node-llama-cpp'
import { inOrder, partition, type Special } from './partition.ts'

/** The tokens of a vocabulary that are found in a text as they are written. */
export function specialsOf(weights: Weights): Special[] {
  const texts = weights.fileInfo.metadata.tokenizer.ggml.tokens
  const specials: Special[] = []
  texts.forEach((text, id) => {
    const attributes = weights.getTokenAttributes(id as Token)
    if (!attributes.control && !attributes.unknown && !attributes.userDefined) return
    specials.push({ id, text, takesLeft: attributes.lstrip, takesRight: attributes.rstrip })
  })
  return inOrder(specials)
}

/**
 * The tokens that llama.cpp makes of a whole text, special ones recognised.
 *
 * @param enough stops once there are so many
 */
export function tokenizeBy(
  weights: Weights,
  specials: readonly Special[],
  text: string,
  enough: number,
): Uint32Array {
  const parts: (readonly number[])[] = []
  let count = 0
  // Half a surrogate pair is what it becomes on its way to llama.cpp anyhow.
  const wellFormed = Buffer.from(text).toString()
  for (const fragment of partition(wellFormed, specials)) {
    if (count >= enough) break
    const tokens = typeof fragment === 'number' ? [fragment] : weights.tokenize(fragment, false)
    parts.push(tokens)
    count += tokens.length
  }
  const all = new Uint32Array(count)
  let at = 0
  for (const tokens of parts) {
    all.set(tokens, at)
    at += tokens.length
  }
  // A single fragment may have had far more.
  return all.slice(0, enough)
}
