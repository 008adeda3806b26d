/**
 * Which beginnings of prompts each worker has had, as far as a router can know: by the text of a request's body, which
 * is the same when a conversation goes on or many prompts share a preamble.
 */

/** Characters, about a page of tokens. */
const blockLength = 64
/** What counts of a prompt: a longer one is as good as unseen after that. */
const maxBlocks = 4096
/** Blocks that are remembered of a worker: those used last. */
const maxRemembered = 65_536
/** Of text; a common rule for English. */
const charactersPerToken = 4

export interface Prompt {
  /** About as many tokens. */
  readonly tokens: number
  /** Each stands for the text from the beginning to its end. */
  readonly blocks: readonly number[]
}

const fields = ['prompt', 'text', 'input_ids', 'messages'] as const

/** @param body its fields as they were written */
export function promptOf(body: ReadonlyMap<string, string>): Prompt {
  const raw = fields.map((name) => body.get(name)).find((text) => text !== undefined) ?? ''
  return { tokens: tokensOf(raw), blocks: blocksOf(raw) }
}

/** Token ids are counted, and the length of text is judged. */
function tokensOf(raw: string): number {
  if (!/^\s*\[[\s[]*\d/.test(raw)) return Math.ceil(raw.length / charactersPerToken)
  let count = 1
  for (let i = raw.indexOf(','); i >= 0; i = raw.indexOf(',', i + 1)) count++
  return count
}

/** Whole blocks only. Two hashes of 32 bits, of which 53 bits are kept: FNV-1a with two primes. */
function blocksOf(raw: string): number[] {
  const blocks: number[] = []
  const count = Math.min(maxBlocks, Math.floor(raw.length / blockLength))
  let [a, b] = [0x811c9dc5, 0x9e3779b9]
  for (let block = 0; block < count; block++) {
    for (let i = block * blockLength; i < (block + 1) * blockLength; i++) {
      const code = raw.charCodeAt(i)
      a = Math.imul(a ^ code, 0x01000193)
      b = Math.imul(b ^ code, 0x85ebca6b)
      b ^= b >>> 15
    }
    blocks.push((b >>> 11) * 2 ** 32 + (a >>> 0))
  }
  return blocks
}

export class Prefixes {
  /** Of each worker the blocks that it has had, least recently used first. */
  readonly #had = new Map<object, Set<number>>()

  /** The part of a prompt, 0 to 1, that this worker has had as a whole beginning. */
  seen(worker: object, { blocks }: Prompt): number {
    const had = this.#had.get(worker)
    if (had === undefined || blocks.length === 0) return 0
    const missing = blocks.findIndex((block) => !had.has(block))
    return (missing < 0 ? blocks.length : missing) / blocks.length
  }

  add(worker: object, { blocks }: Prompt): void {
    const had = this.#had.get(worker) ?? new Set()
    this.#had.set(worker, had)
    // The beginning is used last, so that the end of a prompt is forgotten first.
    for (const block of blocks.toReversed()) {
      had.delete(block)
      had.add(block)
    }
    for (const oldest of had) {
      if (had.size <= maxRemembered) break
      had.delete(oldest)
    }
  }

  /** Its cache is empty: it was started again, or told to flush. */
  forget(worker: object): void {
    this.#had.delete(worker)
  }
}
