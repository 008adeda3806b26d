/** Which pages of the prompt were written, layer by layer, and from where. */

export interface Coverage {
  /** Source page of each page of the prompt; −1 before it was written. */
  readonly sources: Int32Array
  /** Layers that this rank holds. */
  readonly layers: readonly number[]
  /** Of each page of the prompt, the layers that were written: a bit each, in whole words. */
  readonly written: Uint32Array
}

export function emptyCoverage(pages: number, layers: readonly number[]): Coverage {
  return {
    sources: new Int32Array(pages).fill(-1),
    layers,
    written: new Uint32Array(pages * wordsPerPage(layers)),
  }
}

/**
 * Marks `pages`, from prompt page `start` on; pages before `prefix` are not sent. Returns what is wrong, then nothing
 * is marked.
 */
export function cover(
  { sources, layers, written }: Coverage,
  chunk: { start: number; pages: Int32Array; layers: readonly [number, number] },
  prefix: number,
): string | undefined {
  const { start, pages } = chunk
  const first = Math.max(start, prefix)
  const end = start + pages.length
  const masks = masksOf(layers, chunk.layers)
  for (let page = first; page < end; page++) {
    const known = sources[page] ?? -1
    if (known >= 0 && known !== pages[page - start]) {
      return `page ${String(page)} of the prompt was written from another source page before.`
    }
    for (const [word, mask] of masks.entries()) {
      if (((written[page * masks.length + word] ?? 0) & mask) !== 0) {
        return `page ${String(page)} of the prompt was already written.`
      }
    }
  }
  for (let page = first; page < end; page++) {
    sources[page] = pages[page - start] ?? -1
    for (const [word, mask] of masks.entries()) {
      const at = page * masks.length + word
      written[at] = (written[at] ?? 0) | mask
    }
  }
  return undefined
}

export function firstMissing(
  { sources, layers, written }: Coverage,
  prefix: number,
): { page: number; layer: number } | undefined {
  const masks = masksOf(layers, [0, Infinity])
  for (let page = prefix; page < sources.length; page++) {
    for (const [word, mask] of masks.entries()) {
      const missing = mask & ~(written[page * masks.length + word] ?? 0)
      if (missing === 0) continue
      const bit = 31 - Math.clz32(missing & -missing)
      return { page, layer: layers[word * 32 + bit] ?? 0 }
    }
  }
  return undefined
}

function masksOf(layers: readonly number[], range: readonly [number, number]): Uint32Array {
  const masks = new Uint32Array(wordsPerPage(layers))
  for (const [position, layer] of layers.entries()) {
    if (layer < range[0] || layer >= range[1]) continue
    const word = Math.floor(position / 32)
    masks[word] = (masks[word] ?? 0) | (1 << (position % 32))
  }
  return masks
}

function wordsPerPage(layers: readonly number[]): number {
  return Math.ceil(layers.length / 32)
}
