/** `kvx bench`: how fast this machine moves a cache. */
import type { ArgsDef } from 'citty'
import type { TransferBenchReport, Where } from '@kvx/bench'
import { locateBackend } from '../backends.ts'
import type { Command } from '../command.ts'
import { Flags } from '../flags.ts'
import { runToEnd } from '../lifetime.ts'
import { UsageError } from '../usage.ts'
import { backendFlags, backendOptions } from './serve.ts'

const transferArgs = {
  memory: {
    type: 'string',
    valueHint: 'WRITER,OWNER',
    description: 'Whose memory moves where: cpu or cuda:N, or one for both. Default: cpu',
  },
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
  ...backendFlags,
  json: { type: 'boolean', description: 'Print one JSON object instead of text' },
} as const satisfies ArgsDef

const transfer: Command = {
  meta: {
    name: 'transfer',
    description:
      'Scattered runs from one process to another, in GB/s, beside one large copy of as many bytes',
  },
  args: transferArgs,
  examples: `EXAMPLES

  Between memory of the host:
    kvx bench transfer --transfer-backend-options copyThreads=2

  From one GPU to another, and to memory of the host:
    kvx bench transfer --memory cuda:0,cuda:1 --sizes 64MiB,1GiB
    kvx bench transfer --memory cuda:0,cpu

It ends with 1 when bytes at the target are wrong.
`,
  main: async (rawArgs) => {
    const flags = Flags.parse(rawArgs, transferArgs)
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

export const bench: Command = {
  meta: { name: 'bench', description: 'How fast this machine moves a cache' },
  args: {},
  subCommands: { transfer },
}

/** @throws UsageError */
function memoryOf(text: string): [Where, Where] {
  const places = text.split(',').map((word): Where => {
    if (word === 'cpu') return word
    const [, ordinal] = /^cuda:(\d{1,4})$/.exec(word) ?? []
    if (ordinal !== undefined) return Number(ordinal)
    throw new UsageError(`--memory: '${word}' is neither cpu nor cuda:N.`)
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
