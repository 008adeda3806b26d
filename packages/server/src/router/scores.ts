/**
 * The log probabilities of a prompt are told by the leg that computed it: of `/generate` with `logprob_start_len`, decode's lists
 * are those of the answer alone, and prefill's are put before them.
 */
import { EventSourceParserStream } from 'eventsource-parser/stream'
import type { Answer } from './leg.ts'

const lists = ['input_token_logprobs', 'input_top_logprobs'] as const

interface Generated {
  readonly index?: number
  readonly meta_info?: Partial<Record<(typeof lists)[number], readonly unknown[]>>
}

/** Whether the request asks for them. */
export function wantsScores(path: string, body: ReadonlyMap<string, string>): boolean {
  if (path !== '/generate' || body.get('return_logprob')?.trim() !== 'true') return false
  return Number(body.get('logprob_start_len') ?? -1) >= 0
}

/** @param prefill the whole answer of the prefill leg, as JSON */
export function withScores(answer: Answer, prefill: Promise<string>): Answer {
  const isStream = answer.contentType.startsWith('text/event-stream')
  return {
    ...answer,
    body: isStream ? mergedEvents(answer, prefill) : mergedWhole(answer, prefill),
  }
}

async function* mergedWhole({ body }: Answer, prefill: Promise<string>) {
  const chunks: Uint8Array[] = []
  for await (const chunk of body) chunks.push(chunk)
  const whole = JSON.parse(Buffer.concat(chunks).toString()) as Generated | Generated[]
  const scored = JSON.parse(await prefill) as Generated | Generated[]
  const merged = Array.isArray(whole)
    ? whole.map((one, i) => merge(one, of(scored, i)))
    : merge(whole, of(scored, 0))
  yield Buffer.from(JSON.stringify(merged))
}

async function* mergedEvents({ body }: Answer, prefill: Promise<string>) {
  const events = ReadableStream.from(body)
    .pipeThrough(new TextDecoderStream())
    .pipeThrough(new EventSourceParserStream())
  let scored: Generated | Generated[] | undefined
  for await (const { data } of events) {
    if (!data.startsWith('{')) {
      yield Buffer.from(`data: ${data}\n\n`)
      continue
    }
    const event = JSON.parse(data) as Generated
    scored ??= JSON.parse(await prefill) as Generated | Generated[]
    yield Buffer.from(`data: ${JSON.stringify(merge(event, of(scored, event.index ?? 0)))}\n\n`)
  }
}

const of = (scored: Generated | Generated[], index: number) =>
  Array.isArray(scored) ? scored[index] : scored

function merge(answer: Generated, scored: Generated | undefined): Generated {
  const { meta_info: meta } = answer
  if (meta === undefined) return answer
  const joined = lists.flatMap((name) =>
    meta[name] === undefined ? [] : [[name, [...(scored?.meta_info?.[name] ?? []), ...meta[name]]]],
  )
  return { ...answer, meta_info: { ...meta, ...(Object.fromEntries(joined) as object) } }
}
