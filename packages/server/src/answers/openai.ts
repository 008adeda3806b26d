/** Completions and chat completions, as OpenAI's interface tells them. */
import { randomBytes } from 'node:crypto'
import type { OpenAiAsk } from '../asks/openai.ts'
import { chatLogprobs, completionLogprobs, type BytesOf, type Told } from './logprobs.ts'
import { kvxFacts, usage, type PromptFacts, type Rendering } from './rendering.ts'
import type { Piece, Sample } from './pieces.ts'

/** What every event and answer begins with. */
interface Heading {
  readonly id: string
  /** Seconds since 1970. */
  readonly created: number
  readonly model: string
}

/** @param rid the client's own name of its request */
export function heading(prefix: string, model: string, rid: string | undefined): Heading {
  return {
    id: rid ?? `${prefix}-${randomBytes(12).toString('hex')}`,
    created: Math.floor(Date.now() / 1000),
    model,
  }
}

/** What tells completions and chat completions apart: the kinds of their objects, and where the text stands in a choice. */
interface Style {
  readonly object: string
  readonly chunk: string
  /** Of an event; `first` is that of its choice. */
  delta(text: string, first: boolean): object
  whole(text: string): object
  /** @param offset of the first token in the text of the answer, in characters */
  logprobs(told: Told, bytesOf: BytesOf, offset: number): object
}

const completions: Style = {
  ...{ object: 'text_completion', chunk: 'text_completion' },
  delta: (text) => ({ text }),
  whole: (text) => ({ text }),
  logprobs: completionLogprobs,
}

const chat: Style = {
  ...{ object: 'chat.completion', chunk: 'chat.completion.chunk' },
  delta: (content, first) => ({ delta: first ? { role: 'assistant', content } : { content } }),
  whole: (content) => ({ message: { role: 'assistant', content, refusal: null } }),
  logprobs: chatLogprobs,
}

const inStyle =
  (style: Style) =>
  (ask: OpenAiAsk, head: Heading, bytesOf: BytesOf): Rendering => {
    const isScored = ask.sampling.topLogprobs !== undefined
    const choice = ({ index, finish }: Sample, text: object, told: Told, offset: number) => ({
      index,
      ...text,
      ...(ask.returnTokenIds && { token_ids: told.tokens }),
      logprobs: isScored ? style.logprobs(told, bytesOf, offset) : null,
      finish_reason: finish?.reason ?? null,
    })
    const begun = new Set<Sample>()
    return {
      event(sample: Sample, piece: Piece) {
        const { text, finish } = piece
        // A piece without text is news only to who asked for its tokens, or when it ends the answer.
        const isNews = text !== '' || ask.returnTokenIds || isScored || finish !== undefined
        if (!isNews) return undefined
        const told = style.delta(text, !begun.has(sample))
        begun.add(sample)
        return {
          ...head,
          object: style.chunk,
          choices: [choice(sample, told, piece, sample.text.length - text.length)],
        }
      },
      last(samples, prompts) {
        if (!ask.includeUsage) return undefined
        return { ...head, object: style.chunk, choices: [], ...totals(samples, prompts) }
      },
      whole(samples, prompts) {
        const choices = samples.map((sample) => choice(sample, style.whole(sample.text), sample, 0))
        return { ...head, object: style.object, choices, ...totals(samples, prompts) }
      },
    }
  }

const totals = (samples: readonly Sample[], prompts: readonly PromptFacts[]) => ({
  usage: usage(samples, prompts),
  kvx: kvxFacts(prompts),
})

export const completionRendering = inStyle(completions)
export const chatRendering = inStyle(chat)
