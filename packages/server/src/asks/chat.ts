/** `POST /v1/chat/completions`, as OpenAI's interface has it: messages become a prompt by the model's own template. */
import * as v from 'valibot'
import { maxTopLogprobs, type ChatMessage } from '@kvx/llama'
import { checkBody, refuse } from './check.ts'
import { boolean, integer, note, only, streamFields } from './fields.ts'
import { openAiAsk, openAiFields, type OpenAiAsk } from './openai.ts'
import { checkPrompts } from './prompts.ts'

const maxMessages = 1024

const part = v.object(
  {
    type: v.literal(
      'text',
      'messages can hold text only: this model reads no images, audio or files',
    ),
    text: v.string('the text of a message must be a string'),
  },
  'a message must hold text, or parts of text',
)

const message = v.object(
  {
    role: v.picklist(
      ['system', 'developer', 'user', 'assistant', 'tool'],
      'the role of a message must be system, developer, user, assistant or tool',
    ),
    content: v.pipe(
      v.nullish(
        v.union(
          [v.string(), v.array(part)],
          'the content of a message must be text, or a list of parts of text',
        ),
        '',
      ),
      v.transform((content) =>
        typeof content === 'string' ? content : content.map(({ text }) => text).join(''),
      ),
    ),
    name: v.nullish(v.string('the name of a message must be a string')),
    tool_calls: only('tool_calls', 'no tools are called here'),
    function_call: only('function_call', 'no tools are called here'),
    refusal: note,
    audio: only('audio', 'this model hears nothing'),
  },
  'a message must be an object with role and content',
)

const responseFormat = v.nullish(
  v.object(
    {
      type: v.literal(
        'text',
        'response_format other than text is not supported: ask for the form in the prompt and check it',
      ),
    },
    'response_format must be an object',
  ),
)

export const chatFields = {
  messages: v.pipe(
    v.array(message, 'messages must be a list'),
    v.minLength(1, 'messages is an empty list: it must hold at least one message'),
    v.maxLength(maxMessages, `messages has too many messages: ${String(maxMessages)} are possible`),
  ),
  ...openAiFields,
  logprobs: boolean('logprobs'),
  top_logprobs: v.nullish(integer('top_logprobs', 0, maxTopLogprobs)),
  continue_final_message: boolean('continue_final_message'),
  add_generation_prompt: v.nullish(v.boolean('add_generation_prompt must be true or false')),
  tools: only('tools', 'no tools are called here'),
  tool_choice: only('tool_choice', 'no tools are called here', 'none', 'auto'),
  functions: only('functions', 'no tools are called here'),
  function_call: only('function_call', 'no tools are called here', 'none', 'auto'),
  response_format: responseFormat,
  modalities: v.nullish(v.array(v.literal('text', 'modalities other than text are not supported'))),
  reasoning_effort: only('reasoning_effort', 'leave it out'),
  // Nothing is taken out of an answer, so there is nothing to tell apart.
  separate_reasoning: note,
  stream_reasoning: note,
} as const

/**
 * @param render the model's own template
 * @throws KvxError `ERR_KVX_INVALID_ARGUMENT` with one sentence about the first thing that is wrong
 */
export function parseChat(
  body: unknown,
  render: (messages: readonly ChatMessage[], options: { answer: boolean }) => string,
): OpenAiAsk {
  const fields = checkBody(body, chatFields, { stream_options: streamFields })
  const { messages, continue_final_message: continues } = fields
  if (continues && fields.add_generation_prompt === true) {
    throw refuse('continue_final_message and add_generation_prompt exclude each other')
  }
  const last = messages.at(-1)
  if (continues && last?.role !== 'assistant') {
    throw refuse('continue_final_message needs a last message of the assistant, to go on with')
  }
  const conversation = messages.map(({ role, content, name }) => ({
    // The name that newer clients have for it; templates know the older one.
    role: role === 'developer' ? ('system' as const) : role,
    content,
    ...(typeof name === 'string' && { name }),
  }))
  const answer = !continues && (fields.add_generation_prompt ?? true)
  const whole = render(conversation, { answer })
  const text = continues ? upTo(whole, last?.content ?? '') : whole
  const { logprobs, top_logprobs: top } = fields
  if (!logprobs && (top ?? 0) > 0) throw refuse('top_logprobs needs logprobs')
  return openAiAsk(fields, checkPrompts([text], fields.n), logprobs ? (top ?? 0) : undefined)
}

/** The conversation as far as the last message, without what a template writes after it. */
function upTo(text: string, last: string): string {
  const at = text.lastIndexOf(last.trim())
  if (at < 0) {
    throw refuse(
      "The model's template changes the last message, so that the answer cannot go on with it",
    )
  }
  return text.slice(0, at + last.trim().length)
}
