import { KvxError } from '@kvx/contract'
import { throwIfAborted } from './abort.ts'
import { History } from './history.ts'
import type { LlamaModel, Slot } from './model.ts'
import { scoredAtOnce, type PromptScoring, type TokenLogprobs } from './logprobs.ts'
import type { Scoring } from './sampler.ts'
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
 * Computes a prompt chunk by chunk in a sequence that holds its first `start` tokens, and nothing else; the sequence then
 * holds exactly the prompt.
 *
 * @param afterChunk is awaited after every chunk
 * @returns the first token of the answer, for each way of choosing it, and the scores of the tokens from `scoring.from` on
 */
export async function evaluatePrompt(
  model: LlamaModel,
  slot: Slot,
  request: {
    tokens: readonly number[]
    start?: number
    chunkTokens: number
    samplings: Samplings
    scoring?: PromptScoring | undefined
    signal: AbortSignal | undefined
  },
  afterChunk?: (start: number, end: number) => Promise<void>,
): Promise<{ readonly first: Sampled; readonly scores: readonly TokenLogprobs[] }> {
  const { tokens, samplings, scoring, signal } = request
  const chunkTokens = scoring ? Math.min(request.chunkTokens, scoredAtOnce) : request.chunkTokens
  const history = new History(tokens, 0)
  const turn = await model.prefillTurn.acquire(signal)
  try {
    const begin = request.start ?? 0
    let start = begin
    let first: Sampled | undefined
    const scores: TokenLogprobs[] = []
    for (const chunkEnd of chunkEnds(tokens.length - begin, chunkTokens)) {
      const end = begin + chunkEnd
      throwIfAborted(signal)
      const chunk = tokens.slice(start, end)
      const scored = scoring && scoringOf(scoring, tokens, start)
      const told = await model.turns.exclusive(async () => {
        if (end === tokens.length) return slot.sampler.next(chunk, samplings, history, scored)
        return { chosen: undefined, scores: await slot.sampler.evaluate(chunk, scored) }
      })
      first = told.chosen
      scores.push(...told.scores.filter((score) => score !== undefined))
      await afterChunk?.(start, end)
      start = end
    }
    if (first === undefined) throw new KvxError('ERR_KVX_INVALID_ARGUMENT', 'The prompt is empty.')
    return { first, scores }
  } finally {
    model.prefillTurn.release(turn)
  }
}

/** Of a chunk that begins at `start`. */
function scoringOf(
  { from, top }: PromptScoring,
  tokens: readonly number[],
  start: number,
): Scoring {
  return {
    top,
    following: (index) => (start + index + 1 < from ? undefined : tokens[start + index + 1]),
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
