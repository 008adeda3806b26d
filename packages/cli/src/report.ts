/** What `kvx up --once` has found out, for a person and for a machine. */
import type { Answer, Moved } from './completion.ts'

export interface Outcome {
  readonly answer: Answer
  readonly standalone: Answer
  readonly transfer: Moved
  readonly equal: boolean
}

/** One line: an object with these keys. */
export function machineReport({ answer, standalone, transfer, equal }: Outcome): string {
  const { pages, bytes, chunks, ms, backend } = transfer
  return `${JSON.stringify({
    text: answer.text,
    tokens: answer.tokens,
    standalone_tokens: standalone.tokens,
    equal,
    prompt_tokens: answer.promptTokens,
    backend,
    transfer: { pages, bytes, chunks, ms },
    decode_evaluated_tokens: answer.evaluatedTokens,
    ttft_ms: round(answer.ttftMs),
    standalone_ttft_ms: round(standalone.ttftMs),
  })}\n`
}

export function personReport({ answer, standalone, transfer, equal }: Outcome): string {
  const { pages, bytes, chunks, ms, backend } = transfer
  const verdict = equal
    ? `yes, all ${String(answer.tokens.length)} equal those of one process`
    : `NO: prefill and decode gave ${JSON.stringify(answer.tokens)}, one process ${JSON.stringify(standalone.tokens)}`
  return [
    '',
    `moved         ${count(pages, 'page')}, ${count(bytes, 'byte')} in ${count(chunks, 'chunk')} by ${backend}, ${String(round(ms))} ms from the first to the last`,
    `computed      ${count(answer.promptTokens, 'token')} by prefill, ${count(answer.evaluatedTokens, 'token')} by decode`,
    `first token   after ${String(round(answer.ttftMs))} ms; in one process after ${String(round(standalone.ttftMs))} ms`,
    `tokens equal  ${verdict}`,
    '',
  ].join('\n')
}

const round = (ms: number) => Math.round(ms * 10) / 10
const count = (n: number, what: string) => `${n.toLocaleString('en')} ${what}${n === 1 ? '' : 's'}`
