/** `kvx bench transfer`: what an engine moves alone, without a model. */
import type { ArgsDef } from 'citty'
import type { TransferBenchReport, Where } from '@kvx/bench'
import { locateBackend } from '../../backends.ts'
import type { Command } from '../../command.ts'
import { Flags } from '../../flags.ts'
import { runToEnd } from '../../lifetime.ts'
import { UsageError } from '../../usage.ts'
import { stepProgress } from '../../progress.ts'
import { backendFlags, backendOptions } from '../serve.ts'
import { integers } from './numbers.ts'
import { Output, outputFlags, tellingMs, usable } from './output.ts'

const modelOnly = {
  model: {
    type: 'string',
    valueHint: 'NAME',
    description:
      'Whole caches of a known model instead: llama-3.1-8b, llama-3.1-70b, qwen3-32b, qwen3-235b-a22b, deepseek-v3, gpt-oss-120b, nemotron-h-8b',
  },
  layers: {
    type: 'string',
    valueHint: 'N',
    description: 'With --model: only the first N. Default: all',
  },
  dtype: {
    type: 'string',
    valueHint: 'DTYPE',
    description: 'With --model: bf16 (default) or fp8, with scales',
  },
  inputs: {
    type: 'string',
    valueHint: 'TOKENS,…',
    description:
      'With --model: tokens of the prompts, as 128,1024 or 128..32768. Default: 128..32768',
  },
  tp: {
    type: 'string',
    valueHint: 'P:D',
    description: 'With --model: tensor-parallel ranks of prefill and of decode. Default: 1:1',
  },
  'page-size': { type: 'string', valueHint: 'TOKENS', description: 'With --model. Default: 16' },
  chunk: {
    type: 'string',
    valueHint: 'TOKENS',
    description: 'With --model: prefill writes so many tokens at once. Default: 8192',
  },
  repeat: {
    type: 'string',
    valueHint: 'N',
    description: 'With --model: requests of each length. Default: 5',
  },
  format: {
    type: 'string',
    valueHint: 'FORMAT',
    description: 'With --model: table (default), or nixlbench, the columns of that program',
  },
  report: outputFlags.report,
  baseline: outputFlags.baseline,
} as const satisfies ArgsDef

const runsOnly = {
  runs: {
    type: 'string',
    valueHint: 'SIZE,…',
    description: 'Contiguous bytes, as pages of a tensor are. Default: 4KiB,16KiB,64KiB,1MiB',
  },
  sizes: {
    type: 'string',
    valueHint: 'SIZE,…',
    description: 'Bytes of one write. Default: 64MiB',
  },
  repetitions: { type: 'string', valueHint: 'N', description: 'Of each. Default: 9' },
} as const satisfies ArgsDef

const transferArgs = {
  memory: {
    type: 'string',
    valueHint: 'WRITER,OWNER',
    description: 'Whose memory moves where: cpu, cuda or cuda:N, or one for both. Default: cpu',
  },
  ...backendFlags,
  ...runsOnly,
  ...modelOnly,
  json: { type: 'boolean', description: 'Print one JSON object instead of text' },
} as const satisfies ArgsDef

export const transfer: Command = {
  meta: {
    name: 'transfer',
    description:
      'Scattered runs, or with --model whole caches, from one process to another, beside what the machine can do',
  },
  args: transferArgs,
  examples: `EXAMPLES

  Between memory of the host:
    kvx bench transfer --transfer-backend-options copyThreads=2

  From one GPU to another, and to memory of the host:
    kvx bench transfer --memory cuda:0,cuda:1 --sizes 64MiB,1GiB
    kvx bench transfer --memory cuda:0,cpu

  Whole caches, from four ranks to two, in the columns of nixlbench:
    kvx bench transfer --model llama-3.1-70b --layers 8 --tp 4:2 --inputs 128..8192 --format nixlbench

It ends with 1 when bytes at the target are wrong, or nothing could be measured.
`,
  main: async (rawArgs) => {
    const flags = Flags.parse(rawArgs, transferArgs)
    const hasModel = flags.has('model')
    for (const name of Object.keys(hasModel ? runsOnly : modelOnly)) {
      if (!flags.has(name)) continue
      throw new UsageError(
        hasModel ? `--${name} does not go with --model.` : `--${name} needs --model.`,
      )
    }
    if (hasModel) return wholeCaches(flags)
    const memory = memoryOf(flags.string('memory') ?? 'cpu')
    const runs = sizesOf('runs', flags.string('runs') ?? '4KiB,16KiB,64KiB,1MiB')
    const sizes = sizesOf('sizes', flags.string('sizes') ?? '64MiB')
    const repetitions = flags.integer('repetitions', 1, 100_000) ?? 9
    const backend = flags.string('transfer-backend') ?? 'shm'
    const { from } = await locateBackend(backend)
    const { runTransferBench } = await import('@kvx/bench')
    return runToEnd(async (signal) => {
      const report = await runTransferBench({
        ...{ backend, from, memory, runs, sizes, repetitions, signal },
        backendOptions: backendOptions(flags),
      })
      process.stdout.write(flags.has('json') ? `${JSON.stringify(report)}\n` : screen(report))
      return report.ok ? 0 : 1
    })
  },
}

async function wholeCaches(flags: Flags): Promise<number> {
  const { modelFindings, modelNames, nixlText, runModelBench } = await import('@kvx/bench')
  const inputs = integers(flags, 'inputs', 1, 2 ** 24)
  const [prefillTp, decodeTp] = tpOf(flags.string('tp') ?? '1:1')
  const pageTokens = flags.integer('page-size', 1, 4_096) ?? 16
  const settings = {
    model: flags.choice('model', modelNames) ?? 'llama-3.1-8b',
    layers: flags.integer('layers', 1, 10_000),
    dtype: flags.choice('dtype', ['bf16', 'fp8']) ?? 'bf16',
    prefill: { tpSize: prefillTp, pageTokens },
    decode: { tpSize: decodeTp, pageTokens },
    chunk: flags.integer('chunk', 1, 2 ** 24) ?? 8_192,
    backend: flags.string('transfer-backend') ?? 'shm',
    backendOptions: backendOptions(flags),
    inputs:
      inputs.length > 0 ? inputs : [128, 256, 512, 1_024, 2_048, 4_096, 8_192, 16_384, 32_768],
    repeat: flags.integer('repeat', 1, 100_000) ?? 5,
    memory: memoryOf(flags.string('memory') ?? 'cpu'),
  }
  const format = flags.choice('format', ['table', 'nixlbench']) ?? 'table'
  if (format === 'nixlbench' && flags.has('json')) {
    throw new UsageError('--json does not go with --format nixlbench.')
  }
  const output = await Output.open('transfer', flags)
  const { from } = await locateBackend(settings.backend)
  return runToEnd(async (signal) => {
    const { inputs: lengths, repeat, memory, layers, ...rest } = settings
    const progress = stepProgress()
    const synthetic = { ...rest, ...(layers !== undefined && { layers }) }
    const result = await usable(() =>
      runModelBench({
        ...{ synthetic, from, memory, inputs: lengths, repeat, signal },
        onProgress: progress.step,
      }),
    )
    progress.end()
    const text = format === 'nixlbench' ? nixlText(result) : undefined
    return output.tell(modelFindings(result, settings, signal.aborted), text)
  }, tellingMs)
}

/** @throws UsageError */
function tpOf(text: string): [number, number] {
  const [, prefill, decode] = /^([1-9]\d?):([1-9]\d?)$/.exec(text) ?? []
  if (prefill !== undefined && decode !== undefined) return [Number(prefill), Number(decode)]
  throw new UsageError(`--tp must be P:D, such as 4:2, not '${text}'.`)
}

/** @throws UsageError */
function memoryOf(text: string): [Where, Where] {
  const places = text.split(',').map((word): Where => {
    if (word === 'cpu') return word
    if (word === 'cuda') return 0
    const [, ordinal] = /^cuda:(\d{1,4})$/.exec(word) ?? []
    if (ordinal !== undefined) return Number(ordinal)
    throw new UsageError(`--memory: '${word}' is neither cpu nor cuda nor cuda:N.`)
  })
  const [writer, owner = writer] = places
  if (writer !== undefined && owner !== undefined && places.length <= 2) return [writer, owner]
  throw new UsageError('--memory takes one or two places, as cuda:0,cuda:1.')
}

const units: Readonly<Record<string, number>> = { KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30 }

/** @throws UsageError */
function sizesOf(flag: string, text: string): number[] {
  return text.split(',').map((word) => {
    const [, count, unit = ''] = /^([1-9]\d{0,12})(KiB|MiB|GiB)?$/.exec(word) ?? []
    const bytes = Number(count) * (units[unit] ?? 1)
    if (bytes <= 2 ** 40) return bytes
    throw new UsageError(`--${flag}: '${word}' is no size, such as 64KiB or 1GiB.`)
  })
}

const sizeText = (bytes: number): string => {
  const [unit = '', factor = 1] =
    Object.entries(units).findLast(([, each]) => bytes % each === 0) ?? []
  return `${String(bytes / factor)}${unit === '' ? ' bytes' : ` ${unit}`}`
}

const placeText = (where: Where): string => (where === 'cpu' ? 'cpu' : `cuda:${String(where)}`)

function screen({ engine, memory, rows, ok }: TransferBenchReport): string {
  const lines = rows.map(({ size, run, ...row }) => {
    const what = run === undefined ? 'in one piece' : `in runs of ${sizeText(run)}`
    const spread = `[${row.least.toFixed(2)} … ${row.most.toFixed(2)}]`
    const share = run === undefined ? '' : `  ${(100 * row.share).toFixed(0)} %`
    return [
      `  ${sizeText(size).padStart(8)} ${what.padEnd(20)}`,
      `${row.median.toFixed(2).padStart(9)} GB/s ${spread}${share}`,
      `write() ${row.callMicroseconds.toFixed(0)} µs${row.right ? '' : '  WRONG BYTES'}`,
    ].join('  ')
  })
  const [writer, owner] = memory.map(placeText)
  return [
    `${engine.backend} ${engine.version}, ${String(writer)} to ${String(owner)}, two processes`,
    ...lines,
    ok ? 'good' : 'NOT GOOD',
    '',
  ].join('\n')
}
