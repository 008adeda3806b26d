/** What completions and chat completions have in common. */
import * as v from 'valibot'
import {
  boolean,
  bootstrapFields,
  integer,
  manyTokens,
  note,
  notes,
  only,
  rid,
  samples,
  samplingFields,
  samplingOf,
  seedField,
  streamFields,
} from './fields.ts'
import { bootstrapOf, eitherName, refuse, ridOf, type Known } from './check.ts'
import type { Ask, Prompt } from './ask.ts'

export const openAiFields = {
  model: v.nullish(v.string('model must be a string')),
  max_tokens: v.nullish(integer('max_tokens', 1, manyTokens)),
  max_completion_tokens: v.nullish(integer('max_completion_tokens', 1, manyTokens)),
  min_tokens: v.nullish(integer('min_tokens', 0, manyTokens), 0),
  ...samplingFields,
  seed: seedField('seed'),
  n: samples('n'),
  stream: boolean('stream'),
  rid,
  request_id: rid,
  stream_options: v.nullish(v.object(streamFields, 'stream_options must be an object')),
  return_token_ids: boolean('return_token_ids'),
  ...bootstrapFields,

  prompt_logprobs: only('prompt_logprobs', 'leave it out'),
  skip_special_tokens: only('skip_special_tokens false', 'ask for return_token_ids', true),
  no_stop_trim: only('no_stop_trim', 'add the stop string yourself', false),
  length_penalty: only('length_penalty', 'there is no beam search', 1, 0),
  use_beam_search: only('use_beam_search', 'sample instead', false),
  ...notes,
  // Of clients that speak to servers with adapters.
  lora_path: only('lora_path', 'no adapters are loaded', ''),
  return_hidden_states: only('return_hidden_states', 'leave it out', false),
  parallel_tool_calls: note,
} as const

export interface OpenAiAsk extends Ask {
  readonly includeUsage: boolean
  readonly returnTokenIds: boolean
}

export function openAiAsk(
  fields: Known<typeof openAiFields>,
  prompts: readonly Prompt[],
  topLogprobs: number | undefined,
): OpenAiAsk {
  const maxTokens = eitherName(
    ['max_tokens', fields.max_tokens],
    ['max_completion_tokens', fields.max_completion_tokens],
  )
  if (fields.min_tokens > (maxTokens ?? Infinity)) {
    throw refuse('min_tokens is greater than max_tokens')
  }
  return {
    prompts,
    bootstrap: bootstrapOf(fields, prompts.length, fields.n),
    samples: fields.n,
    maxTokens,
    sampling: {
      ...samplingOf(fields, { seed: fields.seed, minTokens: fields.min_tokens }),
      topLogprobs,
    },
    scoredFrom: undefined,
    stop: fields.stop,
    stream: fields.stream,
    rid: ridOf(fields.rid ?? fields.request_id),
    includeUsage: fields.stream_options?.include_usage ?? false,
    returnTokenIds: fields.return_token_ids,
  }
}
