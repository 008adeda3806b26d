import { checkState, describeState } from './state/blob.ts'
import { saveRows, type CachePages } from './state/rows.ts'
import { StateFile, type StateMemory } from './state/scratch.ts'
import type { LlamaModel, Slot } from './model.ts'

/** Of which prompt, and who is told of each chunk that is in the pages. */
export interface Saved {
  readonly tokens: readonly number[]
  readonly pages: CachePages
  readonly onSaved: (start: number, end: number) => Promise<void>
}

/**
 * Puts the cache of a prompt into its pages, chunk by chunk. llama.cpp saves all that a sequence holds, and must not compute
 * meanwhile; the rest, up to the caller's taking the chunk, goes on beside the next one.
 */
export class Saving {
  readonly #model: LlamaModel
  readonly #slot: Slot
  readonly #prompt: Saved
  #file: StateFile | undefined
  #memory: StateMemory | undefined
  #before: Promise<void> = Promise.resolve()

  constructor(model: LlamaModel, slot: Slot, prompt: Saved) {
    this.#model = model
    this.#slot = slot
    this.#prompt = prompt
  }

  /**
   * The tokens from `start` on, of `end` that the sequence holds. Resolves when the next chunk may be computed; with the last
   * one, when all have been taken.
   * @throws whatever the chunk before came to
   */
  async chunk(start: number, end: number): Promise<void> {
    const { turns, saving, geometry } = this.#model
    const { tokens } = this.#prompt
    const { place, sequence } = this.#slot
    await this.#before
    const memory = (this.#memory ??= await saving.acquire())
    const file = (this.#file ??= await StateFile.open(
      describeState(geometry, tokens, place, 'saved').bytes,
    ))
    await turns.exclusive(() => file.save(sequence))
    this.#before = this.#take(file, memory, start, end)
    // Whoever comes next is told.
    this.#before.catch(() => undefined)
    if (end === tokens.length) await this.#before
  }

  async #take(file: StateFile, memory: StateMemory, start: number, end: number): Promise<void> {
    const { cache, memory: pool, geometry } = this.#model
    const { tokens, pages, onSaved } = this.#prompt
    const held = tokens.slice(0, end)
    const described = describeState(geometry, held, this.#slot.place, 'saved')
    const blob = await file.take(memory, described.bytes)
    checkState(blob, described)
    saveRows(blob, described.rows, { cache, memory: pool, pages, tokens: tokens.length }, [
      start,
      end,
    ])
    await onSaved(start, end)
  }

  /** When nothing touches the pages any more. */
  async end(): Promise<void> {
    await this.#before.catch(() => undefined)
    await this.#file?.close()
    if (this.#memory) this.#model.saving.release(this.#memory)
  }
}
