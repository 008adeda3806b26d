/** `kvx synth`: prefill and decode without a model, one process per rank, and every byte looked at. */
import type { ArgsDef } from 'citty'
import type { Context, PageOrder } from '@kvx/core/bytes'
import type { ModelName, SideOptions, SyntheticOptions, SyntheticReport } from '@kvx/bench'
import { isKvxError } from '@kvx/contract'
import { locateBackend } from '../backends.ts'
import type { Command } from '../command.ts'
import { Flags } from '../flags.ts'
import { runToEnd } from '../lifetime.ts'
import { requestProgress } from '../progress.ts'
import { UsageError } from '../usage.ts'
import { backendFlags, backendOptions, pairs } from './serve.ts'

const sideText = 'tp=, pp=, cp=, dp=, page=, order=, context=, stages='

const args = {
  model: {
    type: 'string',
    valueHint: 'NAME',
    description: `Whose cache: llama-3.1-8b (default), llama-3.1-70b, qwen3-32b, qwen3-235b-a22b, deepseek-v3, gpt-oss-120b, nemotron-h-8b`,
  },
  layers: {
    type: 'string',
    valueHint: 'N',
    description: 'Only the first N layers, so that it fits a small machine. Default: all',
  },
  dtype: { type: 'string', valueHint: 'DTYPE', description: 'bf16 (default) or fp8, with scales' },
  index: { type: 'boolean', description: 'With the index of sparse attention (deepseek-v3)' },
  draft: {
    type: 'string',
    valueHint: 'HEADSxDIM',
    description:
      'With a draft layer of so many KV heads of so many numbers; table: the usual one of the model',
  },
  prefill: {
    type: 'string',
    valueHint: 'KEY=VALUE,…',
    description: `Ranks and pages of prefill: ${sideText}. Default: tp=1,page=16`,
  },
  decode: { type: 'string', valueHint: 'KEY=VALUE,…', description: 'The same of decode' },
  'dp-routing': {
    type: 'string',
    valueHint: 'HOW',
    description:
      'How decode learns which data-parallel rank of prefill computes a request: room (default), given, or published by prefill',
  },
  tokens: { type: 'string', valueHint: 'N', description: 'Of each prompt. Default: 1024' },
  prefix: {
    type: 'string',
    valueHint: 'N',
    description: 'Tokens of it that decode has already. Default: 0',
  },
  chunk: {
    type: 'string',
    valueHint: 'N',
    description: 'Prefill computes and writes so many tokens at once. Default: all',
  },
  'layers-per-write': {
    type: 'string',
    valueHint: 'N',
    description: 'Prefill writes so many layers at once. Default: all',
  },
  'out-of-order': {
    type: 'boolean',
    description: 'With --layers-per-write: the layers of a chunk are written in a random order',
  },
  requests: { type: 'string', valueHint: 'N', description: 'Default: 1' },
  concurrency: { type: 'string', valueHint: 'N', description: 'Requests at once. Default: 1' },
  contiguous: {
    type: 'boolean',
    description: 'Pages of a request follow one another. Default: scattered over the pool',
  },
  ...backendFlags,
  'verify-kv': {
    type: 'boolean',
    description: 'Compare digests of what was sent with what arrived, beside every byte',
  },
  unverified: {
    type: 'boolean',
    description: 'Only to measure: neither fill the pages nor look at what arrived',
  },
  fake: {
    type: 'boolean',
    description: 'Prefill answers at once and sends no page: what a request costs beside its bytes',
  },
  'abort-every': {
    type: 'string',
    valueHint: 'N',
    description: 'Every so many requests one is aborted in the middle',
  },
  'abort-by': {
    type: 'string',
    valueHint: 'SIDE',
    description: 'With --abort-every: prefill (default) or decode',
  },
  seed: {
    type: 'string',
    valueHint: 'S',
    description: 'Of the bytes and the order of pages. Default: 1',
  },
  json: { type: 'boolean', description: 'Print one JSON object instead of text' },
} as const satisfies ArgsDef

const examples = `KEYS OF --prefill AND --decode

  tp, pp, cp, dp   Sizes: tensor, pipeline, context and data parallel. Default: 1
  page             Tokens of a page. Default: 16
  order            Within a page: NHD (default), HND, HDN
  context          With cp: all, contiguous, or interleave:N, stretches of N tokens in turn
  stages           First layer of each pipeline stage and the last one's end, as 0/10/32. Default: even

EXAMPLES

  One rank to one rank, 4 layers:
    kvx synth --layers 4

  4 tensor-parallel ranks to 2, pages of 16 tokens to pages of 64, digests compared as well:
    kvx synth --model llama-3.1-70b --layers 8 --prefill tp=4 --decode tp=2,page=64 --verify-kv

  MLA with its sparse index in FP8, written as layers are ready:
    kvx synth --model deepseek-v3 --index --dtype fp8 --layers 6 --prefill tp=8,page=64 \\
      --decode tp=4,page=64 --layers-per-write 2 --out-of-order

  Pipeline stages of 1 and 3 layers to one stage; context parallelism dealt out in turn:
    kvx synth --layers 4 --prefill stages=0/1/4 --decode tp=2
    kvx synth --layers 4 --prefill cp=4,context=interleave:16 --decode cp=2,context=contiguous

  Data parallelism: prefill chooses one of its three, and publishes which one it was:
    kvx synth --layers 4 --prefill dp=3,tp=2 --decode tp=4 --requests 6 --dp-routing published

  Load: 200 requests, 4 at once, in chunks, every 10th aborted by decode:
    kvx synth --layers 4 --requests 200 --concurrency 4 --chunk 256 --abort-every 10 --abort-by decode

  Speed of an engine, without looking at the bytes:
    kvx synth --model llama-3.1-70b --tokens 2048 --prefill tp=4 --decode tp=2 --requests 5 \\
      --unverified --transfer-backend mooncake --json

  What a request costs beside its bytes:
    kvx synth --layers 4 --fake --requests 1000 --concurrency 8

It ends with 0 when every request went as it should, every byte is right and every page came back, else with 1.
`

export const synth: Command = {
  meta: {
    name: 'synth',
    description:
      'Prefill and decode without a model: any layout over any engine, every byte verified',
  },
  args,
  examples,
  main: async (rawArgs) => {
    const flags = Flags.parse(rawArgs, args)
    // Loaded late: it brings libzmq, which a misspelt flag need not wait for.
    const { modelNames, runSynthetic } = await import('@kvx/bench')
    const options = synthOptions(flags, modelNames)
    const { from } = await locateBackend(options.backend)
    return runToEnd(async (signal) => {
      const onProgress = requestProgress()
      try {
        const report = await runSynthetic({ ...options, from, signal, onProgress })
        process.stdout.write(flags.has('json') ? `${JSON.stringify(report)}\n` : screen(report))
        return report.ok ? 0 : 1
      } catch (cause) {
        if (signal.aborted || !isKvxError(cause)) throw cause
        if (cause.code !== 'ERR_KVX_INVALID_ARGUMENT') throw cause
        throw new UsageError(cause.message, { cause })
      }
    })
  },
}

/** @throws UsageError */
export function synthOptions(flags: Flags, modelNames: readonly ModelName[]): SyntheticOptions {
  const most = 2 ** 31 - 1
  const natural = (name: string, least = 1) => flags.integer(name, least, most)
  const every = natural('abort-every')
  const by = flags.choice('abort-by', ['prefill', 'decode'])
  const needs: [string, string][] = [
    ['abort-by', 'abort-every'],
    ['out-of-order', 'layers-per-write'],
    ['concurrency', 'requests'],
  ]
  for (const [flag, other] of needs) {
    if (flags.has(flag) && !flags.has(other)) throw new UsageError(`--${flag} needs --${other}.`)
  }
  const [layers, dtype] = [natural('layers'), flags.choice('dtype', ['bf16', 'fp8'])]
  return {
    model: flags.choice('model', modelNames) ?? 'llama-3.1-8b',
    ...(layers !== undefined && { layers }),
    ...(dtype !== undefined && { dtype }),
    ...{ index: flags.has('index'), draft: draftOf(flags.string('draft')) },
    ...{ prefill: side('prefill', flags), decode: side('decode', flags) },
    dpRouting: flags.choice('dp-routing', ['room', 'given', 'published']),
    tokens: natural('tokens') ?? 1024,
    prefix: natural('prefix', 0),
    chunk: natural('chunk'),
    layersPerWrite: natural('layers-per-write'),
    outOfOrder: flags.has('out-of-order'),
    ...{ requests: natural('requests'), concurrency: natural('concurrency') },
    contiguous: flags.has('contiguous'),
    backend: flags.string('transfer-backend') ?? 'shm',
    backendOptions: backendOptions(flags),
    ...{ verifyKV: flags.has('verify-kv'), unverified: flags.has('unverified') },
    fake: flags.has('fake'),
    ...(every !== undefined && { abort: { every, by: by ?? 'prefill' } }),
    seed: flags.integer('seed', 0, 2 ** 32 - 1),
  }
}

function draftOf(text: string | undefined): boolean | { kvHeads: number; headDim: number } {
  if (text === undefined) return false
  if (text === 'table') return true
  const [, kvHeads, headDim] = /^([1-9]\d{0,4})x([1-9]\d{0,4})$/.exec(text) ?? []
  if (kvHeads !== undefined) return { kvHeads: Number(kvHeads), headDim: Number(headDim) }
  throw new UsageError(`--draft must be HEADSxDIM, such as 2x64, or table, not '${text}'.`)
}

const sizes = {
  tp: 'tpSize',
  pp: 'ppSize',
  cp: 'cpSize',
  dp: 'dpSize',
  page: 'pageTokens',
} as const
const orders: readonly PageOrder[] = ['NHD', 'HND', 'HDN']

function side(flag: 'prefill' | 'decode', flags: Flags): SideOptions {
  const found: Record<string, unknown> = {}
  const wrong = (key: string, must: string, value: unknown): UsageError =>
    new UsageError(`--${flag}: ${key} must be ${must}, not '${String(value)}'.`)
  for (const [key, value] of Object.entries(pairs(flag, flags))) {
    if (Object.hasOwn(sizes, key)) {
      if (!Number.isSafeInteger(value) || Number(value) < 1) {
        throw wrong(key, 'a positive integer', value)
      }
      found[sizes[key as keyof typeof sizes]] = value
    } else if (key === 'order') {
      if (!orders.includes(value as PageOrder)) throw wrong(key, orders.join(', '), value)
      found.order = value
    } else if (key === 'context') {
      found.context = contextOf(String(value))
      if (found.context === undefined) {
        throw wrong(key, 'all, contiguous or interleave:TOKENS', value)
      }
    } else if (key === 'stages') {
      const stages = String(value).split('/')
      if (stages.length < 2 || stages.some((layer) => !/^\d{1,6}$/.test(layer))) {
        throw wrong(key, 'layer numbers such as 0/10/32', value)
      }
      found.stages = stages.map(Number)
    } else {
      throw new UsageError(`--${flag} has no '${key}': there are ${sideText.replaceAll('=', '')}.`)
    }
  }
  return found
}

function contextOf(text: string): Context | undefined {
  if (text === 'all' || text === 'contiguous') return text
  const [, tokens] = /^interleave:([1-9]\d{0,8})$/.exec(text) ?? []
  return tokens === undefined ? undefined : { interleave: Number(tokens) }
}

/** Requests that are told one by one. */
const shownRequests = 20

function screen({ engine, model, layers, ranks, requests, total, ok }: SyntheticReport): string {
  const count = (n: number) => n.toLocaleString('en')
  const some = (n: number, what: string) => `${count(n)} ${what}${n === 1 ? '' : 's'}`
  const rate = (bytes: number, ms: number) => (ms === 0 ? '–' : (bytes / ms / 1e6).toFixed(2))
  const told = requests.length <= shownRequests ? requests : requests.filter(isWorthTelling)
  const rows = told.map(({ room, outcome, tokens, bytes, ms, transferMs, message }) => {
    const numbers = `${count(tokens)} tokens  ${count(bytes)} bytes  ${rate(bytes, transferMs)} GB/s  ${ms.toFixed(0)} ms`
    const end = outcome === 'ok' ? numbers : (message ?? '')
    return `  ${room.padStart(6)}  ${outcome.padEnd(8)} ${end}`
  })
  const errors = Object.entries(total.errors).map(([code, times]) => `  ${code}: ${count(times)}`)
  const { succeeded, aborted, wrong, failed } = total
  return [
    `${model}, ${some(layers, 'layer')}: ${some(ranks.prefill, 'prefill rank')} to ${some(ranks.decode, 'decode rank')} by ${engine.backend} ${engine.version}`,
    ...rows,
    `requests   ${count(succeeded)} right, ${count(aborted)} aborted as asked, ${count(wrong)} with wrong bytes, ${count(failed)} failed`,
    ...errors,
    `moved      ${count(total.tokens)} tokens, ${count(total.bytes)} bytes at ${total.gigabytesPerSecond.toFixed(2)} GB/s; ${count(total.verifiedBytes)} bytes verified`,
    `a request  p50 ${total.p50Ms.toFixed(0)} ms, p99 ${total.p99Ms.toFixed(0)} ms, with what prefill computes; all in ${total.seconds.toFixed(1)} s`,
    ...(total.lostPages > 0 ? [`lost       ${count(total.lostPages)} pages never came back`] : []),
    ok ? 'good' : 'NOT GOOD',
    '',
  ].join('\n')
}

const isWorthTelling = ({ outcome }: SyntheticReport['requests'][number]): boolean =>
  outcome !== 'ok' && outcome !== 'aborted'
