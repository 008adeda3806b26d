/** Runs requests through two synthetic instances, one process per rank. */
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { KvxError, silentLog } from '@kvx/contract'
import { BootstrapServer, dpRankOf } from '@kvx/core'
import { planOf, type Job, type Plan, type SyntheticOptions } from './options.ts'
import { RankProcess } from './process.ts'
import { randomOf } from './random.ts'
import { requestReport, totalOf, type RequestReport, type SyntheticReport } from './report.ts'

/**
 * Prefill and decode instances without a model: each rank is a process, its memory is filled with bytes that say where they
 * belong, and decode looks at every byte that it needs.
 *
 * A request that fails, or brings wrong bytes, is in the report; the run goes on.
 *
 * @throws KvxError `ERR_KVX_INVALID_ARGUMENT`; what opening a rank fails with; `ERR_KVX_INTERNAL` when the process of one ends;
 *   `ERR_KVX_ABORTED` after the signal
 */
export async function runSynthetic(options: SyntheticOptions): Promise<SyntheticReport> {
  const plan = planOf(options)
  const token = randomBytes(32).toString('hex')
  const bootstrap = await BootstrapServer.open({
    ...{ host: '127.0.0.1', port: 0, token, log: silentLog },
  })
  const ranks: RankProcess[] = []
  let onAbort: () => void = () => undefined
  try {
    const aborted = new Promise<never>((_, reject) => {
      onAbort = () => {
        reject(new KvxError('ERR_KVX_ABORTED', 'The synthetic run was aborted.'))
      }
      if (options.signal?.aborted === true) onAbort()
      options.signal?.addEventListener('abort', onAbort)
    })
    aborted.catch(() => undefined)
    ranks.push(...startRanks(options, plan, { token, bootstrap: bootstrap.address }))
    const over = Promise.race([aborted, ...ranks.map(({ failed }) => failed)])
    over.catch(() => undefined)
    return await Promise.race([runOver(ranks, options, plan), over])
  } finally {
    options.signal?.removeEventListener('abort', onAbort)
    await Promise.all(ranks.map((rank) => rank.kill()))
    await bootstrap.close()
  }
}

function startRanks(
  options: SyntheticOptions,
  { shape, ranks }: Plan,
  { token, bootstrap }: { token: string; bootstrap: string },
): RankProcess[] {
  const run = randomBytes(4).toString('hex')
  const { builds = {} } = options
  return ranks.map((rank) => {
    const build = builds[rank.role]
    return new RankProcess(
      {
        ...{ ...rank, shape, token, bootstrap, instance: `synthetic-${rank.role}-${run}` },
        ...{ backend: options.backend, backendOptions: options.backendOptions ?? {} },
        from: options.from ?? process.cwd(),
        verifyKV: options.verifyKV ?? false,
        isVerified: options.unverified !== true,
        isContiguous: options.contiguous ?? false,
        isMeasured: options.measure ?? false,
        where: options.memory?.[rank.role === 'prefill' ? 0 : 1] ?? 'cpu',
      },
      ...(build === undefined
        ? []
        : [pathToFileURL(join(build, 'node_modules/@kvx/bench/dist/synthetic/child.js'))]),
    )
  })
}

async function runOver(
  ranks: readonly RankProcess[],
  options: SyntheticOptions,
  plan: Plan,
): Promise<SyntheticReport> {
  const [engine] = await Promise.all(ranks.map((rank) => rank.open()))
  const random = randomOf(plan.seed)
  const requests: RequestReport[] = []
  options.onProgress?.(0, plan.requests)
  const started = performance.now()
  let next = 0
  const work = async () => {
    for (let number = next++; number < plan.requests; number = next++) {
      const job = jobOf(options, plan, { number, seed: random() })
      requests[number] = await runRequest(ranks, job, options.abort?.by)
      options.onProgress?.(requests.filter(Boolean).length, plan.requests)
    }
  }
  await Promise.all(Array.from({ length: plan.concurrency }, work))
  const seconds = (performance.now() - started) / 1_000
  // Decode first: prefill tells it of nothing any more.
  const count = async (role: string) => {
    const left = await Promise.all(
      ranks.filter((rank) => rank.options.role === role).map((rank) => rank.close()),
    )
    return left.reduce((sum, pages) => sum + pages, 0)
  }
  const lostPages = (await count('decode')) + (await count('prefill'))
  const total = totalOf(requests, { seconds, lostPages })
  const ofRole = (role: string) => ranks.filter((rank) => rank.options.role === role).length
  return {
    ok: total.succeeded + total.aborted === total.requests && lostPages === 0,
    engine: engine ?? { backend: options.backend, version: '' },
    ...{ model: modelName(options), layers: plan.shape.layers, requests, total },
    ranks: { prefill: ofRole('prefill'), decode: ofRole('decode') },
  }
}

function jobOf(
  options: SyntheticOptions,
  { prefix, chunk, ranks }: Plan,
  { number, seed }: { number: number; seed: number },
): Job {
  const { tokens, layersPerWrite, outOfOrder = false, fake: isFake = false, abort } = options
  const { dpRouting = 'room' } = options
  const room = String(BigInt(number) + 1n)
  const { dpSize = 1 } = ranks.find(({ role }) => role === 'prefill')?.rank ?? {}
  // Whoever chooses does not choose as the room would.
  const prefillDp = dpRankOf(BigInt(room) + (dpRouting === 'room' ? 0n : 1n), dpSize)
  const dpRank = {
    ...(dpRouting === 'given' && { dpRank: prefillDp }),
    ...(dpRouting === 'published' && { dpRank: 'published' as const }),
  }
  const isAborted = abort !== undefined && number % abort.every === abort.every - 1
  return {
    room,
    seed,
    tokens,
    prefix,
    chunk,
    layersPerWrite,
    outOfOrder,
    isFake,
    isAborted,
    prefillDp,
    dpRank,
  }
}

function modelName({ model }: SyntheticOptions): string {
  return typeof model === 'string' ? model : model.model
}

/** One request at all ranks that take part; what fails at one of them is over at all, as a scheduler would have it. */
async function runRequest(
  ranks: readonly RankProcess[],
  job: Job,
  abortBy: 'prefill' | 'decode' | undefined,
): Promise<RequestReport> {
  const taking = ranks.filter((rank) => isOf(rank, job))
  const senders = taking.filter(({ options }) => options.role === 'prefill')
  let silent = senders.length
  const onWritten = () => {
    silent--
    if (silent > 0) return
    for (const rank of taking) if (rank.options.role === abortBy) rank.abort(job.room)
  }
  const results = await Promise.all(
    taking.map(async (rank) => {
      const result = await rank.serve(job, onWritten)
      if (result.error) for (const other of taking) other.abort(job.room)
      return result
    }),
  )
  return requestReport(job.room, job.tokens, { results, isAborted: job.isAborted })
}

/** Data-parallel groups take turns, on both sides. */
function isOf({ options: { role, rank } }: RankProcess, { room, prefillDp }: Job): boolean {
  return rank.dp === (role === 'prefill' ? prefillDp : dpRankOf(BigInt(room), rank.dpSize))
}
