/** How fast an engine moves scattered runs between two processes, beside one large copy of as many bytes. */
import type { Link, TransferPlan } from '@kvx/contract'
import { aborted, startAsked } from '../asked.ts'
import { randomOf, shuffle } from '../synthetic/random.ts'
import { jobOf, type Flat, type OwnerWord } from './owner.ts'
import { openSide, type SideOfTransfer, type Where } from './side.ts'

export interface TransferBenchOptions {
  readonly backend: string
  readonly from: string
  readonly backendOptions?: Readonly<Record<string, string | number | boolean>>
  /** Whose memory is read, and whose is written to. */
  readonly memory: readonly [writer: Where, owner: Where]
  /** Whether all lanes of a page lie together in the owner's memory. Else each lane is a piece of its own. Default false. */
  readonly lanesTogether?: boolean
  /** Bytes of a run: contiguous on both sides. */
  readonly runs: readonly number[]
  /** Bytes of a write. */
  readonly sizes: readonly number[]
  /** Writes that are under way at once, each of `sizes` bytes. Default 1. */
  readonly inFlight?: number
  /** Measured writes (or as many at once) of each kind, after two that warm up. */
  readonly repetitions: number
  readonly signal?: AbortSignal | undefined
}

export interface TransferRow {
  readonly size: number
  /** Absent for the one large copy. */
  readonly run?: number
  readonly segments: number
  /** GB/s (10^9) from the call of write() until `done` has resolved, of the last one where several are under way. */
  readonly median: number
  readonly least: number
  readonly most: number
  /** Of the median of the one large copy of this size. */
  readonly share: number
  /** Median of the time that one write() holds up the thread of JavaScript. */
  readonly callMicroseconds: number
  /** Whether a sample of the runs is at the target what it was at the source. */
  readonly right: boolean
}

export interface TransferBenchReport {
  readonly engine: { readonly backend: string; readonly version: string }
  readonly memory: readonly [Where, Where]
  readonly rows: readonly TransferRow[]
  readonly ok: boolean
}

const lanes = 64
/** Runs that are compared after a row was measured. */
const sample = 512

/**
 * @throws KvxError what the engine throws, `ERR_KVX_ABORTED` after the signal, `ERR_KVX_INTERNAL` when the owner's process ends
 */
export async function runTransferBench(
  options: TransferBenchOptions,
): Promise<TransferBenchReport> {
  const { backend, from, backendOptions = {}, memory, lanesTogether = false } = options
  const bytes = Math.max(...options.sizes)
  const side = (where: Where, fill: number): SideOfTransfer => ({
    ...{ backend, from, backendOptions, where, bytes, fill },
  })
  const script = new URL('./owner.js', import.meta.url)
  const owner = startAsked<OwnerWord>(script, 'The process that owns the memory', options.signal)
  try {
    const there = await owner.ask<{ generation: string; address: string; regions: string[] }>({
      do: 'open',
      side: side(memory[1], 1),
    })
    const writer = await openSide(side(memory[0], 2))
    try {
      const link = await writer.engine.connect(
        {
          generation: there.generation,
          address: Buffer.from(there.address, 'base64'),
          regions: there.regions.map((region) => Buffer.from(region, 'base64')),
        },
        { timeoutMs: 120_000 },
      )
      const rows: TransferRow[] = []
      for (const size of options.sizes) {
        for (const run of [undefined, ...options.runs.filter((length) => length * 2 <= size)]) {
          const { plan, job } = planOf(size, run ?? size, lanesTogether)
          const measured = await measure(link, plan, size, options)
          const here = Buffer.from(await writer.engine.digest(jobOf(job.source))).toString('hex')
          const right = here === (await owner.ask<string>({ do: 'digest', job: job.destination }))
          const whole = rows.find((row) => row.size === size && row.run === undefined)
          const share = whole === undefined ? 1 : measured.median / whole.median
          rows.push({ size, ...(run !== undefined && { run }), ...measured, share, right })
        }
      }
      const { backend: name, version } = writer.engine.identity
      const ok = rows.every(({ right }) => right)
      return { engine: { backend: name, version }, memory, rows, ok }
    } finally {
      await writer.close()
    }
  } finally {
    owner.kill()
  }
}

async function measure(
  link: Link,
  plan: TransferPlan,
  size: number,
  { repetitions, inFlight = 1, signal }: TransferBenchOptions,
): Promise<Pick<TransferRow, 'segments' | 'median' | 'least' | 'most' | 'callMicroseconds'>> {
  const speeds: number[] = []
  const calls: number[] = []
  let segments = 0
  for (let round = -2; round < repetitions; round++) {
    if (signal?.aborted === true) throw aborted()
    const started = performance.now()
    const transfers = Array.from({ length: inFlight }, () =>
      link.write(plan, { deadlineMs: 600_000 }),
    )
    const called = performance.now()
    for (const { done } of transfers) segments = (await done).segments
    const ended = performance.now()
    for (const { settled } of transfers) await settled
    if (round < 0) continue
    speeds.push((inFlight * size) / (ended - started) / 1e6)
    calls.push(((called - started) * 1000) / inFlight)
  }
  speeds.sort((a, b) => a - b)
  const [least = 0, most = 0] = [speeds[0], speeds.at(-1)]
  return { segments, median: middle(speeds), least, most, callMicroseconds: middle(calls) }
}

const middle = (numbers: readonly number[]): number =>
  [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)] ?? 0

/** Runs of a page each in up to 64 lanes, scattered on both sides; and what compares some of them. */
function planOf(
  size: number,
  run: number,
  lanesTogether: boolean,
): { plan: TransferPlan; job: { source: Flat; destination: Flat } } {
  const laneCount = Math.max(1, Math.min(lanes, Math.floor(size / run)))
  const pages = Math.max(1, Math.floor(size / run / laneCount))
  const random = randomOf(size + run)
  const order = (): Int32Array =>
    shuffle(
      Int32Array.from({ length: pages }, (_, i) => i),
      random,
    )
  const [from, to] = [order(), order()]
  const apart = { lane: pages * run, page: run }
  const there = lanesTogether ? { lane: run, page: laneCount * run } : apart
  const rows = Array.from({ length: laneCount }, (_, lane) => {
    const bases = [lane * apart.lane, lane * there.lane]
    return [0, 0, ...bases, apart.page, there.page, run, 1, run, run]
  })
  const groups = Array.from({ length: pages }, (_, i) => [from[i] ?? 0, to[i] ?? 0, 1])
  const job = (of: Int32Array, { lane, page }: typeof apart): Flat => ({
    pageTokens: 1,
    tensors: [0, (laneCount - 1) * lane, page, 1, 1, 0, run, run, run, run, run],
    runs: Array.from({ length: Math.min(sample, pages) }, (_, i) => [of[i] ?? 0, 0, 1, i]).flat(),
  })
  return {
    plan: {
      lanes: Float64Array.from(rows.flat()),
      groups: Int32Array.from(groups.flat()),
      blocks: Int32Array.of(0, pages, 0, laneCount),
    },
    job: { source: job(from, apart), destination: job(to, there) },
  }
}
