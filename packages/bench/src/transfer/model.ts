/** How fast an engine moves the caches of known models between instances, beside what this machine can do at all. */
import { freemem } from 'node:os'
import { isKvxError } from '@kvx/contract'
import { allocate } from '@kvx/native'
import { aborted } from '../asked.ts'
import { planOf, type SyntheticOptions } from '../synthetic/options.ts'
import type { Cost } from '../synthetic/meter.ts'
import { runSynthetic } from '../synthetic/run.ts'
import { runTransferBench } from './run.ts'
import type { Where } from './side.ts'

export interface ModelBenchOptions {
  readonly synthetic: Pick<
    SyntheticOptions,
    | 'model'
    | 'layers'
    | 'dtype'
    | 'prefill'
    | 'decode'
    | 'chunk'
    | 'backend'
    | 'backendOptions'
    | 'seed'
  >
  readonly from: string
  readonly memory: readonly [prefill: Where, decode: Where]
  /** Tokens of the prompts. */
  readonly inputs: readonly number[]
  /** Measured requests of each length, after one that warms up. */
  readonly repeat: number
  readonly signal?: AbortSignal | undefined
  readonly onProgress?: ((what: string, done: number, all: number) => void) | undefined
}

export interface ModelSample {
  /** From `receive` until everything was there, at the slowest decode rank. */
  readonly ms: number
  /** While bytes were on their way. */
  readonly wireMs: number
  readonly bytes: number
  /** Writes of prefill. */
  readonly chunks: number
  readonly cost: Cost
}

export interface ModelRow {
  readonly input: number
  /** Why it was not measured. */
  readonly reason?: string
  readonly samples: readonly ModelSample[]
  /** GB/s of one thread that copies as many bytes within this process, at most 1 GiB; before and after the requests. */
  readonly memcpy: readonly number[]
  /** GB/s of one large piece by the same engine between two processes, of as many bytes, at most 1 GiB. */
  readonly largeCopy: readonly number[]
}

export interface ModelBenchResult {
  readonly engine: { readonly backend: string; readonly version: string } | undefined
  readonly rows: readonly ModelRow[]
}

const largestCopy = 2 ** 30
/** Copies of which each limit is the median or all are told. */
const copies = 3
/** What a machine needs beside the caches. */
const reserve = 2 ** 30

/** What fails at one length is in its row; after the signal, what was measured until then. */
export async function runModelBench(options: ModelBenchOptions): Promise<ModelBenchResult> {
  const { inputs, signal, onProgress } = options
  const rows: ModelRow[] = []
  let engine: ModelBenchResult['engine']
  for (const [i, input] of inputs.entries()) {
    if (isAborted(signal)) break
    onProgress?.(`${String(input)} tokens`, i, inputs.length)
    try {
      const measured = await measure(options, input)
      engine = measured.engine
      rows.push(measured.row)
    } catch (cause) {
      if (isAborted(signal)) break
      // A layout that cannot be is wrong at every length.
      if (isKvxError(cause) && cause.code === 'ERR_KVX_INVALID_ARGUMENT' && rows.length === 0)
        throw cause
      const reason = (cause as Error).message
      rows.push({ input, reason, samples: [], memcpy: [], largeCopy: [] })
    }
  }
  return { engine, rows }
}

const isAborted = (signal: AbortSignal | undefined): boolean => signal?.aborted === true

async function measure(
  { synthetic, from, memory, repeat, signal }: ModelBenchOptions,
  input: number,
): Promise<{ row: ModelRow; engine: ModelBenchResult['engine'] }> {
  const options: SyntheticOptions = {
    ...{ ...synthetic, from, memory, tokens: input, requests: repeat + 1, signal },
    ...{ unverified: true, measure: true },
  }
  const bytes = bytesOnHost(options, memory)
  if (bytes + reserve > freemem()) {
    const gigabytes = (count: number): string => (count / 1e9).toFixed(1)
    throw new Error(
      `the caches take ${gigabytes(bytes)} GB, and ${gigabytes(freemem())} are free: take fewer layers`,
    )
  }
  const memcpy: number[] = []
  const size = Math.min(largestCopy, sizeOf(options))
  const onHost = memory.every((where) => where === 'cpu')
  if (onHost) memcpy.push(...copied(size))
  const { requests, engine } = await runSynthetic(options)
  if (onHost) memcpy.push(...copied(size))
  if (isAborted(signal)) throw aborted()
  const samples = requests
    .slice(1)
    .map(({ outcome, message, ms, transferMs, chunks, cost, ...request }) => {
      if (outcome !== 'ok' || cost === undefined) throw new Error(message ?? outcome)
      return { ms, wireMs: transferMs, bytes: request.bytes, chunks, cost }
    })
  const { backend, backendOptions } = synthetic
  const { rows } = await runTransferBench({
    ...{ backend, from, memory, runs: [], sizes: [size], repetitions: copies, signal },
    ...(backendOptions && { backendOptions: backendOptions as Record<string, string> }),
  })
  const largeCopy = rows.flatMap(({ least, median, most }) => [least, median, most])
  return { row: { input, samples, memcpy, largeCopy }, engine }
}

/** Of all ranks whose caches lie in memory of the host. */
function bytesOnHost(options: SyntheticOptions, memory: ModelBenchOptions['memory']): number {
  return planOf(options).ranks.reduce((sum, { role, regionBytes }) => {
    const where = memory[role === 'prefill' ? 0 : 1]
    return where === 'cpu' ? sum + regionBytes.reduce((a, b) => a + b, 0) : sum
  }, 0)
}

/** What all decode ranks have pages for, about. */
function sizeOf(options: SyntheticOptions): number {
  const bytes = planOf(options)
    .ranks.filter(({ role }) => role === 'decode')
    .reduce((sum, { regionBytes }) => sum + regionBytes.reduce((a, b) => a + b, 0), 0)
  // Whole pages of the system.
  return Math.max(4_096, Math.floor(bytes / 4_096) * 4_096)
}

/** GB/s, over memory that was touched before. */
function copied(bytes: number): number[] {
  const [source, target] = [allocate(bytes), allocate(bytes)]
  try {
    const [from, to] = [source.view(0, bytes), target.view(0, bytes)]
    from.fill(1)
    to.fill(2)
    return Array.from({ length: copies }, () => {
      const began = performance.now()
      to.set(from)
      return bytes / (performance.now() - began) / 1e6
    })
  } finally {
    source.free()
    target.free()
  }
}
