/** Replays a trace through prefill and decode instances without a model, over a real engine. */
import { randomBytes } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { KvxError, silentLog } from '@kvx/contract'
import { BootstrapServer } from '@kvx/core'
import { makeRank, type CacheShape } from '@kvx/core/bytes'
import type { ModelName } from '../models.ts'
import { shapeOf, type CacheDtype } from '../shape.ts'
import { invalid, placedIn, type Job, type PlacedRank } from '../synthetic/options.ts'
import { RankProcess } from '../synthetic/process.ts'
import { Gate } from './gate.ts'
import type { TraceLine } from './read.ts'
import { choose, type Instance } from './schedule.ts'

export interface TraceOptions {
  readonly lines: readonly TraceLine[]
  readonly model: ModelName
  /** Only the first of its layers. Default: all. */
  readonly layers?: number | undefined
  readonly dtype?: CacheDtype | undefined
  /** How many instances of each kind, of one rank each. */
  readonly prefill: number
  readonly decode: number
  /** Tokens of a page, which must divide a block. */
  readonly pageTokens: number
  /** Tokens that the pool of each decode instance has room for; prefill has half of it, or that of the longest prompt. */
  readonly poolTokens: number
  /** Tokens that prefill writes at once. */
  readonly chunk: number
  /** How many times as fast as it was recorded. */
  readonly speed: number
  /** Milliseconds for which decode keeps the pages of a prompt for each token of its answer, at speed 1. */
  readonly itlMs: number
  /** Requests at each decode instance at once. */
  readonly maxRunning: number
  /** Requests that wait before any instance; one more is refused. */
  readonly maxQueued: number
  /** Pages are filled, and decode looks at every byte, those of prefixes included. Else nobody does. */
  readonly verify: boolean
  readonly backend: string
  readonly backendOptions?: Readonly<Record<string, unknown>> | undefined
  /** Where the backend is looked for: a folder or file. */
  readonly from: string
  readonly signal?: AbortSignal | undefined
  readonly onProgress?: ((what: string, done: number, all: number) => void) | undefined
}

export interface TraceRequest {
  /** Of its line: 1, 2, 3, … */
  readonly number: number
  /** `ok`, `refused`, `wrong`, or the code of what went wrong. */
  readonly outcome: string
  readonly message?: string
  readonly tokens: number
  readonly prefixTokens?: number
  /** Milliseconds from its arrival until an instance of each kind took it. */
  readonly queueMs?: number
  /** Milliseconds that it waited for pages of decode. */
  readonly pagesMs?: number
  /** Milliseconds in which its bytes were on their way. */
  readonly transferMs?: number
  /** Milliseconds from its arrival until its cache was there. */
  readonly arrivedMs?: number
  readonly bytes?: number
  readonly verifiedBytes?: number
}

export interface TracePass {
  readonly speed: number
  readonly engine: { readonly backend: string; readonly version: string }
  readonly requests: readonly TraceRequest[]
  /** Lines that arrived. */
  readonly arrived: number
  readonly seconds: number
  /** Pages that were not free after all. */
  readonly lostPages: number
  readonly bytesPerToken: number
}

/** Requests that a prefill instance works on at once. */
const prefillAtOnce = 4

/** @throws KvxError `ERR_KVX_INVALID_ARGUMENT`, what opening a rank fails with, `ERR_KVX_INTERNAL` when a process ends */
export async function runTrace(options: TraceOptions): Promise<TracePass> {
  const shape = shapeFor(options)
  const token = randomBytes(32).toString('hex')
  const log = silentLog
  const services: BootstrapServer[] = []
  const ranks: RankProcess[] = []
  try {
    for (let i = 0; i < options.prefill; i++) {
      services.push(await BootstrapServer.open({ host: '127.0.0.1', port: 0, token, log }))
    }
    const addresses = services.map(({ address }) => address)
    const { prefill, decode } = placesOf(options, shape)
    const open = (place: PlacedRank, i: number): RankProcess => {
      const rank = new RankProcess({
        ...{ ...place, shape, token, instance: `trace-${place.role}-${String(i + 1)}` },
        bootstrap: addresses[i] ?? addresses[0] ?? '',
        ...{ backend: options.backend, backendOptions: options.backendOptions ?? {} },
        ...{ from: options.from, verifyKV: false, isVerified: options.verify, isContiguous: false },
        ...{ isMeasured: false, where: 'cpu' as const },
      })
      ranks.push(rank)
      return rank
    }
    const instances = {
      prefill: addresses.map((from, i) => instanceOf(open(prefill, i), prefillAtOnce, from)),
      decode: Array.from({ length: options.decode }, (_, i) =>
        instanceOf(open(decode, i), options.maxRunning, ''),
      ),
    }
    const failed = Promise.race(ranks.map((rank) => rank.failed))
    failed.catch(() => undefined)
    options.onProgress?.('opening the instances', 0, 1)
    const [engine] = await Promise.all(ranks.map((rank) => rank.open()))
    const replayed = await Promise.race([replay(options, instances), failed])
    // Decode first: prefill tells it of nothing any more.
    const close = async (some: readonly Instance[]): Promise<number> => {
      // What runs when the run is ended early keeps its pages; then nobody counts them.
      if (options.signal?.aborted === true) return 0
      const lost = await Promise.all(some.map(({ rank }) => rank.close()))
      return lost.reduce((sum, pages) => sum + pages, 0)
    }
    const lostPages = (await close(instances.decode)) + (await close(instances.prefill))
    const { speed } = options
    const bytesPerToken = bytesOf(shape)
    return {
      speed,
      engine: engine ?? { backend: options.backend, version: '' },
      ...replayed,
      lostPages,
      bytesPerToken,
    }
  } finally {
    await Promise.all(ranks.map((rank) => rank.kill()))
    await Promise.all(services.map((service) => service.close()))
  }
}

const instanceOf = (rank: RankProcess, atOnce: number, from: string): Instance => ({
  ...{ rank, from, gate: new Gate(atOnce), blocks: new Set<number>() },
})

function shapeFor({ model, layers, dtype, pageTokens }: TraceOptions): CacheShape {
  const shape = shapeOf(model, { ...(layers !== undefined && { layers }), ...(dtype && { dtype }) })
  const [component, ...others] = shape.components
  if (others.length > 0 || component?.addressed !== 'tokens' || component.window !== undefined) {
    throw invalid(
      `the cache of ${model} is not only pages of tokens, in which prefixes can be kept`,
    )
  }
  if (512 % pageTokens !== 0)
    throw invalid(`a page must divide a block of 512 tokens, got ${String(pageTokens)}`)
  return shape
}

function placesOf({ lines, pageTokens, poolTokens }: TraceOptions, shape: CacheShape) {
  const rank = makeRank(shape.layers, { tp: 0, pp: 0, cp: 0, dp: 0 })
  const longest = lines.reduce((most, { input }) => Math.max(most, input), 0)
  const placed = (role: 'prefill' | 'decode', tokens: number): PlacedRank =>
    placedIn(role, shape, rank, { pageTokens, pages: Math.ceil(tokens / pageTokens) })
  return {
    prefill: placed('prefill', Math.max(longest, poolTokens / 2)),
    decode: placed('decode', poolTokens),
  }
}

function bytesOf({ components }: CacheShape): number {
  return components
    .flatMap(({ tensors }) => tensors)
    .reduce(
      (sum, { units, unitBytes, tokensPerRow = 1 }) => sum + (units * unitBytes) / tokensPerRow,
      0,
    )
}

interface Instances {
  readonly prefill: readonly Instance[]
  readonly decode: readonly Instance[]
}

async function replay(
  options: TraceOptions,
  instances: Instances,
): Promise<Pick<TracePass, 'requests' | 'arrived' | 'seconds'>> {
  const { lines, speed, maxQueued, signal, onProgress } = options
  const requests: TraceRequest[] = []
  const live = new Set<Promise<void>>()
  const aborted = new Promise<void>((resolve) => {
    signal?.addEventListener('abort', () => {
      resolve()
    })
  })
  const began = performance.now()
  const [first = 0] = lines.map(({ timestamp }) => timestamp)
  let [arrived, queued] = [0, 0]
  for (const [i, line] of lines.entries()) {
    const due = (line.timestamp - first) / speed - (performance.now() - began)
    // Timers are not finer than a millisecond: those that are due together come together.
    if (due >= 1) await delay(due, undefined, { signal }).catch(() => undefined)
    if (signal?.aborted === true) break
    arrived++
    const number = i + 1
    const { input: tokens } = line
    if (queued >= maxQueued) requests.push({ number, outcome: 'refused', tokens })
    else {
      queued++
      const ended = serve(options, instances, { line, number }, () => queued--).then((request) => {
        requests.push(request)
        live.delete(ended)
      })
      live.add(ended)
    }
    onProgress?.(
      `at ${String(speed)} times: ${String(requests.length)} ended, ${String(queued)} wait`,
      number,
      lines.length,
    )
    // What has come meanwhile is heard, also while arrivals never pause.
    if (i % 16 === 15) await new Promise((resolve) => setImmediate(resolve))
  }
  while (live.size > 0 && signal?.aborted !== true) await Promise.race([...live, aborted])
  // A copy: what is killed when the run is ended early fails only then.
  return { requests: [...requests], arrived, seconds: (performance.now() - began) / 1_000 }
}

/** Never rejects. */
async function serve(
  { chunk, itlMs, speed }: TraceOptions,
  instances: Instances,
  { line, number }: { line: TraceLine; number: number },
  onTaken: () => void,
): Promise<TraceRequest> {
  const { input: tokens, blocks, output } = line
  const arrived = performance.now()
  const decode = choose(instances.decode, blocks)
  const prefill = choose(instances.prefill, [])
  for (const id of blocks) decode.blocks.add(id)
  const job: Job = {
    ...{ room: String(number), seed: number, tokens, prefix: 0, chunk, blocks },
    ...{ holdMs: (output * itlMs) / speed, from: prefill.from },
    ...{ layersPerWrite: undefined, outOfOrder: false, isFake: false, isAborted: false },
    ...{ prefillDp: 0, dpRank: {} },
  }
  await decode.gate.enter()
  let [queueMs, arrivedMs] = [performance.now() - arrived, 0]
  let isTaken = false
  const taken = (): void => {
    if (!isTaken) onTaken()
    isTaken = true
  }
  const send = async () => {
    const waited = performance.now()
    await prefill.gate.enter()
    queueMs += performance.now() - waited
    taken()
    try {
      const sent = await prefill.rank.serve(job, () => undefined)
      arrivedMs = performance.now() - arrived
      if (sent.error) decode.rank.abort(job.room)
      return sent
    } finally {
      prefill.gate.leave()
    }
  }
  let sending: ReturnType<typeof send> | undefined
  try {
    const received = await decode.rank.serve(job, () => {
      sending = send()
      sending.catch(() => undefined)
    })
    if (received.error) prefill.rank.abort(job.room)
    const sent = await sending
    const {
      error = sent?.error,
      mismatch,
      prefixTokens,
      pagesMs,
      transferMs,
      bytes,
      verifiedBytes,
    } = received
    if (error) return { number, outcome: error.code, message: error.message, tokens }
    return {
      ...{ number, outcome: mismatch === undefined ? 'ok' : 'wrong', tokens, queueMs, arrivedMs },
      ...(mismatch !== undefined && { message: mismatch }),
      ...(prefixTokens !== undefined && { prefixTokens }),
      ...(pagesMs !== undefined && { pagesMs }),
      ...(transferMs !== undefined && { transferMs }),
      ...(bytes !== undefined && { bytes }),
      ...(verifiedBytes !== undefined && { verifiedBytes }),
    }
  } catch (cause) {
    const code = cause instanceof KvxError ? cause.code : 'ERR_KVX_INTERNAL'
    return { number, outcome: code, message: (cause as Error).message, tokens }
  } finally {
    taken()
    decode.gate.leave()
  }
}
