/** `POST /generate`, as SGLang has it. */
import * as v from 'valibot'
import { maxTopLogprobs } from '@kvx/llama'
import { bootstrapOf, checkBody, refuse, ridOf } from './check.ts'
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
  tokenIds,
} from './fields.ts'
import type { Ask, Prompt } from './ask.ts'
import { checkPrompts } from './prompts.ts'

/** SGLang's default. */
const defaultMaxTokens = 128

export const samplingParams = {
  max_new_tokens: v.nullish(integer('max_new_tokens', 0, manyTokens), defaultMaxTokens),
  min_new_tokens: v.nullish(integer('min_new_tokens', 0, manyTokens), 0),
  ...samplingFields,
  n: samples('n'),
  sampling_seed: seedField('sampling_seed'),
  seed: seedField('seed'),
  skip_special_tokens: only('skip_special_tokens false', 'output_ids tells all tokens', true),
  spaces_between_special_tokens: note,
  no_stop_trim: only('no_stop_trim', 'add the stop string yourself', false),
  json_schema: only('json_schema', 'ask for the form in the prompt and check it'),
  regex: only('regex', 'ask for the form in the prompt and check it'),
  ebnf: only('ebnf', 'ask for the form in the prompt and check it'),
  structural_tag: only('structural_tag', 'ask for the form in the prompt and check it'),
  stop_regex: only('stop_regex', 'use stop'),
  stream_interval: only('stream_interval', 'leave it out', 1),
} as const

const texts = v.union(
  [v.string(), v.array(v.string('text must be a string or a list of strings'))],
  'text must be a string or a list of strings',
)
const idsMessage = 'input_ids must be a list of token ids, or a list of such lists'
const inputIds = v.union(
  [tokenIds(idsMessage), v.array(tokenIds(idsMessage), idsMessage)],
  idsMessage,
)

export const generateFields = {
  text: v.nullish(texts),
  input_ids: v.nullish(inputIds),
  sampling_params: v.nullish(
    v.object(samplingParams, 'sampling_params must be one object for all prompts'),
    {},
  ),
  stream: boolean('stream'),
  rid,
  ...bootstrapFields,
  model: v.nullish(v.string('model must be a string')),
  return_logprob: boolean('return_logprob'),
  logprob_start_len: v.nullish(integer('logprob_start_len', -1, manyTokens), -1),
  top_logprobs_num: v.nullish(integer('top_logprobs_num', 0, maxTopLogprobs), 0),
  token_ids_logprob: only('token_ids_logprob', 'ask for top_logprobs_num'),
  return_text_in_logprobs: boolean('return_text_in_logprobs'),
  return_hidden_states: only('return_hidden_states', 'leave it out', false),
  return_routed_experts: only('return_routed_experts', 'leave it out', false),
  return_bytes: only('return_bytes', 'leave it out', false),
  return_entropy: only('return_entropy', 'leave it out', false),
  background: only('background', 'leave it out', false),
  lora_path: only('lora_path', 'no adapters are loaded', ''),
  lora_id: only('lora_id', 'no adapters are loaded', ''),
  input_embeds: only('input_embeds', 'send text or input_ids'),
  image_data: only('image_data', 'this model sees nothing'),
  audio_data: only('audio_data', 'this model hears nothing'),
  video_data: only('video_data', 'this model sees nothing'),
  session_params: only('session_params', 'leave it out'),
  custom_logit_processor: only('custom_logit_processor', 'use logit_bias', ''),
  ...notes,
} as const

export interface GenerateAsk extends Ask {
  /** Whether the answer is a list, also of one. */
  readonly isBatch: boolean
  /** Whether log probabilities come with the text of their tokens. */
  readonly textInLogprobs: boolean
}

/** @throws KvxError `ERR_KVX_INVALID_ARGUMENT` with one sentence about the first thing that is wrong */
export function parseGenerate(body: unknown): GenerateAsk {
  const fields = checkBody(body, generateFields, { sampling_params: samplingParams })
  const { text, input_ids: ids, sampling_params: params } = fields
  if ((text === undefined || text === null) === (ids === undefined || ids === null)) {
    throw refuse('The prompt must be given as text or as input_ids, and not as both')
  }
  const { prompts, isBatch } = promptsIn(text ?? ids ?? [])
  const { max_new_tokens: maxTokens, min_new_tokens: minTokens } = params
  const { logprob_start_len: from } = fields
  if (minTokens > maxTokens) throw refuse('min_new_tokens is greater than max_new_tokens')
  return {
    prompts: checkPrompts(prompts, params.n),
    isBatch: isBatch || params.n > 1,
    bootstrap: bootstrapOf(fields, prompts.length, params.n),
    samples: params.n,
    maxTokens,
    textInLogprobs: fields.return_text_in_logprobs,
    sampling: {
      ...samplingOf(params, { seed: params.sampling_seed ?? params.seed, minTokens }),
      topLogprobs: fields.return_logprob ? fields.top_logprobs_num : undefined,
    },
    scoredFrom: fields.return_logprob && from >= 0 ? from : undefined,
    stop: params.stop,
    stream: fields.stream,
    rid: ridOf(fields.rid),
  }
}

type Given = string | readonly string[] | readonly number[] | readonly (readonly number[])[]

function promptsIn(given: Given): { prompts: readonly Prompt[]; isBatch: boolean } {
  if (typeof given === 'string' || typeof given[0] === 'number') {
    return { prompts: [given as Prompt], isBatch: false }
  }
  return { prompts: given as readonly Prompt[], isBatch: true }
}
