import { KvxError } from '@kvx/contract'
import { throwIfAborted } from './abort.ts'
import { History } from './history.ts'
import type { LlamaModel, Slot } from './model.ts'
import type { Sampled, Samplings } from './sampling.ts'

/**
 * Cuts a prompt into chunks, as token positions where each ends. No chunk has one token, unless the
 * whole prompt has: a remainder of one joins the chunk before.
 */
export function chunkEnds(tokens: number, chunkTokens: number): number[] {
  const ends: number[] = []
  for (let end = 0; end < tokens;) {
    end = tokens - end <= chunkTokens + 1 ? tokens : end + chunkTokens
    ends.push(end)
  }
  return ends
}

/**
 * Computes a prompt chunk by chunk in an empty sequence; the sequence then holds exactly the prompt.
 *
 * @param afterChunk is awaited after every chunk
 * @returns the first token of the answer, for each way of choosing it
 */
export async function evaluatePrompt(
  model: LlamaModel,
  slot: Slot,
  request: {
    tokens: readonly number[]
    chunkTokens: number
    samplings: Samplings
    signal: AbortSignal | undefined
  },
  afterChunk?: (start: number, end: number) => Promise<void>,
): Promise<Sampled> {
  const { tokens, chunkTokens, samplings, signal } = request
  const history = new History(tokens, 0)
  const turn = await model.prefillTurn.acquire(signal)
  try {
    let start = 0
    let first: Sampled | undefined
    for (const end of chunkEnds(tokens.length, chunkTokens)) {
      throwIfAborted(signal)
      const chunk = tokens.slice(start, end)
      first = await model.turns.exclusive(async () => {
        if (end === tokens.length) return slot.sampler.next(chunk, samplings, history)
        await slot.sampler.evaluate(chunk)
        return undefined
      })
      await afterChunk?.(start, end)
      start = end
    }
    if (first === undefined) throw new KvxError('ERR_KVX_INVALID_ARGUMENT', 'The prompt is empty.')
    return first
  } finally {
    model.prefillTurn.release(turn)
  }
}

/** Empties the sequence and gives it to whoever waits. */
export async function release(model: LlamaModel, slot: Slot): Promise<void> {
  try {
    await model.turns.exclusive(() => slot.sequence.clearHistory())
  } finally {
    model.slots.release(slot)
  }
}
