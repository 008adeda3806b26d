/** `kvx bench trace`: a recorded stream of requests, replayed without a model. */
import type { ArgsDef } from 'citty'
import type { TraceLine, TraceOptions, TracePass } from '@kvx/bench'
import { locateBackend } from '../../backends.ts'
import type { Command } from '../../command.ts'
import { Flags } from '../../flags.ts'
import { runToEnd } from '../../lifetime.ts'
import { stepProgress } from '../../progress.ts'
import { UsageError } from '../../usage.ts'
import { backendFlags, backendOptions } from '../serve.ts'
import { Output, outputFlags, tellingMs, usable } from './output.ts'

const args = {
  file: {
    type: 'positional',
    description: 'A trace: JSON lines with timestamp, input_length, output_length, hash_ids',
    required: true,
  },
  speed: {
    type: 'string',
    valueHint: 'N|fastest',
    description:
      'How many times as fast as recorded. fastest: the fastest that keeps up, and twice that. Default: 1',
  },
  instances: {
    type: 'string',
    valueHint: 'P:D',
    description: 'Instances of prefill and of decode. Default: 1:1',
  },
  lines: { type: 'string', valueHint: 'N', description: 'Only the first N lines. Default: all' },
  model: {
    type: 'string',
    valueHint: 'NAME',
    description:
      'Whose cache: llama-3.1-8b (default), llama-3.1-70b, qwen3-32b, qwen3-235b-a22b, deepseek-v3',
  },
  layers: {
    type: 'string',
    valueHint: 'N',
    description: 'Only the first N layers, so that it fits a small machine. Default: 1',
  },
  dtype: { type: 'string', valueHint: 'DTYPE', description: 'bf16 (default) or fp8, with scales' },
  ...backendFlags,
  'page-size': { type: 'string', valueHint: 'TOKENS', description: 'Tokens per page. Default: 16' },
  'pool-tokens': {
    type: 'string',
    valueHint: 'TOKENS',
    description: 'For which each decode instance has pages, and prefill half. Default: 600000',
  },
  chunk: {
    type: 'string',
    valueHint: 'TOKENS',
    description: 'Prefill writes so many tokens at once. Default: 8192',
  },
  itl: {
    type: 'string',
    valueHint: 'MS',
    description: 'Decode keeps the pages for so long for each token of the answer. Default: 20',
  },
  'max-running-requests': {
    type: 'string',
    valueHint: 'N',
    description: 'Requests at each decode instance at once. Default: 64',
  },
  'max-queued-requests': {
    type: 'string',
    valueHint: 'N',
    description: 'Requests that wait for an instance; one more is refused. Default: 64',
  },
  verify: {
    type: 'boolean',
    description: 'Fill all pages, and look at every byte at decode, those of prefixes included',
  },
  ...outputFlags,
} as const satisfies ArgsDef

/** In which the first pass of a search for the fastest speed replays the whole trace. */
const searchSeconds = 20

export const trace: Command = {
  meta: {
    name: 'trace',
    description:
      'Replay arrivals, lengths and prefixes of a trace through instances without a model',
  },
  args,
  examples: `EXAMPLES

  As it was recorded, every byte verified:
    kvx bench trace conversation.jsonl --lines 200 --verify

  The fastest that two instances of each kind keep up with, and twice that, where requests are refused:
    kvx bench trace conversation.jsonl --speed fastest --instances 2:2 --report results

Waiting times of answers are scaled like arrivals. It ends with 0 when every request was answered or refused, and none was
lost, none wrong, and no page leaked.
`,
  main: async (rawArgs) => {
    const flags = Flags.parse(rawArgs, args)
    const [file] = flags.positionals
    if (file === undefined) throw new UsageError('Which trace? A file of JSON lines.')
    const { findFastest, modelNames, readTrace, rounded, runTrace, traceFindings } =
      await import('@kvx/bench')
    const [prefill, decode] = instancesOf(flags.string('instances') ?? '1:1')
    const speed =
      flags.string('speed') === 'fastest' ? undefined : flags.number('speed', 0.001, 1e6)
    const settings = {
      ...{ file, prefill, decode },
      speed: flags.string('speed') === 'fastest' ? 'fastest' : (speed ?? 1),
      model: flags.choice('model', modelNames) ?? 'llama-3.1-8b',
      layers: flags.integer('layers', 1, 10_000) ?? 1,
      dtype: flags.choice('dtype', ['bf16', 'fp8']) ?? 'bf16',
      backend: flags.string('transfer-backend') ?? 'shm',
      backendOptions: backendOptions(flags),
      pageTokens: flags.integer('page-size', 1, 512) ?? 16,
      poolTokens: flags.integer('pool-tokens', 1, 2 ** 31 - 1) ?? 600_000,
      chunk: flags.integer('chunk', 1, 2 ** 31 - 1) ?? 8_192,
      itlMs: flags.number('itl', 0, 1e6) ?? 20,
      maxRunning: flags.integer('max-running-requests', 1, 65_536) ?? 64,
      maxQueued: flags.integer('max-queued-requests', 1, 1_000_000) ?? 64,
      verify: flags.has('verify'),
    }
    if (settings.chunk % settings.pageTokens !== 0) {
      throw new UsageError('--chunk must be a multiple of --page-size.')
    }
    const output = await Output.open('trace', flags)
    const lines = await usable(() => readTrace(file, flags.integer('lines', 1, 2 ** 31 - 1)))
    const { from } = await locateBackend(settings.backend)
    /** The fastest pass that keeps up and one at twice its speed; and all that were tried to find it. */
    const fastestAndTwice = async (
      pass: (speed: number) => Promise<TracePass>,
      signal: AbortSignal,
    ): Promise<[TracePass[], TracePass[]]> => {
      const first = rounded(Math.max(1, spanOf(lines) / searchSeconds))
      const { passes, fastest } = await findFastest(first, pass, () => signal.aborted)
      if (fastest === undefined) return [[], passes]
      return [[fastest, ...(signal.aborted ? [] : [await pass(fastest.speed * 2)])], passes]
    }
    return runToEnd(async (signal) => {
      const progress = stepProgress()
      const pass = (at: number): Promise<TracePass> => {
        const options: TraceOptions = {
          ...settings,
          speed: at,
          lines,
          from,
          signal,
          onProgress: progress.step,
        }
        return usable(() => runTrace(options))
      }
      const [told, tried] =
        settings.speed === 'fastest'
          ? await fastestAndTwice(pass, signal)
          : [[await pass(Number(settings.speed))], []]
      progress.end()
      return output.tell(
        traceFindings(told, tried, { ...settings, lines: lines.length }, signal.aborted),
      )
    }, tellingMs)
  },
}

/** Seconds from the first arrival to the last. */
const spanOf = (lines: readonly TraceLine[]): number =>
  ((lines.at(-1)?.timestamp ?? 0) - (lines[0]?.timestamp ?? 0)) / 1_000

function instancesOf(text: string): [number, number] {
  const [, prefill, decode] = /^([1-9]\d?):([1-9]\d?)$/.exec(text) ?? []
  if (prefill !== undefined && decode !== undefined) return [Number(prefill), Number(decode)]
  throw new UsageError(`--instances must be P:D, such as 2:2, not '${text}'.`)
}
