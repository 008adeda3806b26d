/** `POST /v1/completions`, as OpenAI's interface has it. */
import { checkBody, refuse } from './check.ts'
import { integer, only, streamFields } from './fields.ts'
import { openAiAsk, openAiFields, type OpenAiAsk } from './openai.ts'
import { anyPrompts, checkPrompts } from './prompts.ts'
import * as v from 'valibot'
import { maxTopLogprobs } from '@kvx/llama'

export const completionFields = {
  prompt: anyPrompts('prompt'),
  ...openAiFields,
  // A number here; a list of them in chat completions, which clients also send as false.
  logprobs: v.nullish(
    v.union(
      [v.literal(false), integer('logprobs', 0, maxTopLogprobs)],
      `logprobs must be an integer from 0 to ${String(maxTopLogprobs)}`,
    ),
  ),
  top_logprobs: only('top_logprobs', 'give the number as logprobs', 0),
  best_of: v.nullish(integer('best_of', 1, Infinity)),
  echo: only('echo', 'join the prompt and its answer yourself', false),
  suffix: only('suffix', 'leave it out', ''),
  add_special_tokens: only('add_special_tokens false', 'send the prompt as token ids', true),
} as const

/** @throws KvxError `ERR_KVX_INVALID_ARGUMENT` with one sentence about the first thing that is wrong */
export function parseCompletion(body: unknown): OpenAiAsk {
  const fields = checkBody(body, completionFields, { stream_options: streamFields })
  if ((fields.best_of ?? fields.n) !== fields.n) {
    throw refuse('best_of other than n is not supported: ask for n answers and choose the best')
  }
  const { logprobs } = fields
  const top = typeof logprobs === 'number' ? logprobs : undefined
  return openAiAsk(fields, checkPrompts(fields.prompt, fields.n), top)
}
