/**
 * The bytes that the model would compute: made of the prompt and of the place in the model alone, so that both sides of a
 * transfer know them without telling each other.
 */
import { heldTokens, type HeldComponent, type RankMemory } from './memory.ts'

/** Pages of one component that belong to a request. */
export interface PromptPages {
  readonly held: HeldComponent
  /** In the order of the prompt; or slots. */
  readonly pages: Int32Array
  /** Number of the first one among those that the rank has of the prompt. */
  readonly first: number
  readonly prompt: { readonly prompt: number; readonly tokens: number }
}

/**
 * The row of the undivided cache that a byte belongs to, in the pages of a prompt; undefined behind the last token.
 *
 * @param tokens that the rank holds of the prompt
 * @param number of its page among those of the prompt, or of the slot among those of the request
 */
export function rowOf(
  { rowAt, rowTokensAt }: RankMemory,
  { pageTokens }: HeldComponent,
  tokens: readonly number[],
  number: number,
  at: number,
): number | undefined {
  const row = rowAt[at]!
  // So many rows no slot has.
  if (pageTokens === undefined) return number * 64 + row
  const size = rowTokensAt[at]!
  const token = tokens[number * pageTokens + row * size]
  return token === undefined ? undefined : Math.floor(token / size)
}

/** Every byte of the pages that stands for something, with what it should be. */
export function eachByte(
  memory: RankMemory,
  { held, pages, first, prompt }: PromptPages,
  visit: (at: number, byte: number, row: number, page: number) => void,
): void {
  const tokens = heldTokens(memory, held, prompt.tokens)
  for (const [i, page] of pages.entries()) {
    for (const at of held.bytesOf[page]!) {
      const row = rowOf(memory, held, tokens, first + i, at)
      if (row === undefined) continue
      visit(at, byteOf(prompt.prompt, memory.cellAt[at]!, row), row, i)
    }
  }
}

/** The byte of a cell in one row of a prompt. */
export function byteOf(prompt: number, cell: number, row: number): number {
  let x =
    Math.imul(cell ^ Math.imul(row + 1, 0x9e3779b1), 0x85ebca6b) ^ Math.imul(prompt, 0xc2b2ae35)
  x = Math.imul(x ^ (x >>> 15), 0x27d4eb2f)
  return (x ^ (x >>> 13)) & 0xff
}

/** Identifies a prompt on the wire: its number is within. */
export function digestOf(prompt: number): Uint8Array {
  const digest = new Uint8Array(16)
  new DataView(digest.buffer).setUint32(0, prompt)
  return digest
}
