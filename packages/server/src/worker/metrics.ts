/**
 * What a worker counts, under the names that SGLang has for it, with `kvx_` before them, and in Prometheus' units. Each worker has a
 * registry of its own, so that several live in one process.
 */
import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from 'prom-client'
import type { KvxError } from '@kvx/contract'
import type { CacheCounts } from './cache-pools.ts'
import type { WorkerEvent } from './events.ts'
import type { Journal, RequestRecord } from './journal.ts'

export interface WorkerMetrics {
  readonly registry: Registry
  transferFailed(error: KvxError): void
  requestBegan(): void
  requestEnded(result: 'success' | 'cancelled' | 'failed'): void
  /** Also for requests that were refused before they began. */
  failed(code: string): void
  /** What has just happened to a request. */
  observe(record: RequestRecord, event: WorkerEvent): void
}

export interface Measured {
  /** Counts the pool; a standalone worker has none. */
  readonly pages?: () => CacheCounts
  /** Of the worker. */
  readonly journal?: Pick<Journal, 'live'>
  readonly labels?: { readonly backend: string; readonly mode: string }
  readonly version?: string
}

const seconds = {
  short: [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10],
  long: [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80],
}

export function workerMetrics(measured: Measured = {}): WorkerMetrics {
  const { pages, journal, labels = { backend: 'none', mode: 'null' }, version } = measured
  const registry = new Registry()
  const registers = [registry]
  const counter = (name: string, help: string, labelNames: readonly string[] = []) =>
    new Counter({ name, help, labelNames: [...labelNames], registers })
  const histogram = (name: string, help: string, buckets: number[]) =>
    new Histogram({ name, help, buckets, registers })

  collectDefaultMetrics({ register: registry })
  new Gauge({
    name: 'kvx_build_info',
    help: 'Always 1; its labels tell what runs.',
    labelNames: ['version', 'node', 'backend', 'mode'],
    registers,
  }).set({ version: version ?? 'unknown', node: process.version, ...labels }, 1)

  const transfers = counter(
    'kvx_transfers_total',
    'Transfers of one prompt by how they ended: success, failed, aborted.',
    ['result'],
  )
  const transferBytes = counter(
    'kvx_transfer_bytes_total',
    'Bytes of cache in successful transfers.',
  )
  const failures = counter(
    'kvx_failures_total',
    'Failed requests by error code; those that clients cancelled are not among them.',
    ['code'],
  )
  const requests = counter(
    'kvx_requests_total',
    'Requests by how they ended: success, failed, or cancelled by the client.',
    ['result'],
  )
  const live = new Gauge({
    name: 'kvx_requests_live',
    help: 'Requests that have not ended.',
    registers,
  })
  new Gauge({
    name: 'kvx_pages',
    help: 'Pages of the cache pool: free, cached (the prefix cache has them and nobody uses them), leased to a request, or quarantined because bytes may still land in them.',
    labelNames: ['state'],
    registers,
    collect() {
      const counts = pages?.()
      for (const state of ['free', 'cached', 'leased', 'quarantined'] as const) {
        this.set({ state }, counts?.[state] ?? 0)
      }
    },
  })
  new Gauge({
    name: 'kvx_num_reqs',
    help: 'Prompts by what they wait for: bootstrap (the other leg), pages (free pages), model (their turn to be computed), transfer (the cache on its way), or running (tokens are generated).',
    labelNames: ['phase'],
    registers,
    collect() {
      for (const phase of phases) this.set({ phase }, 0)
      for (const record of journal?.live() ?? []) this.inc({ phase: phaseOf(record) })
    },
  })

  const promptTokens = counter('kvx_prompt_tokens_total', 'Tokens of the prompts.')
  const generatedTokens = counter('kvx_generation_tokens_total', 'Tokens of the answers.')
  const cachedTokens = counter(
    'kvx_cached_tokens_total',
    'Tokens of prompts that the prefix cache had: not computed again at prefill, not moved at decode.',
  )
  const firstToken = histogram(
    'kvx_time_to_first_token_seconds',
    'From the request to the first token of its answer.',
    seconds.long,
  )
  const betweenTokens = histogram(
    'kvx_inter_token_latency_seconds',
    'From one token of an answer to the next.',
    seconds.short,
  )
  const whole = histogram(
    'kvx_e2e_request_latency_seconds',
    'From the request to the end of its answer; of those that succeeded.',
    seconds.long,
  )
  const bootstrap = histogram(
    'kvx_kv_transfer_bootstrap_seconds',
    'From the leg being open until both sides know of each other: at prefill decode has reserved pages, at decode prefill has taken the reservation.',
    seconds.short,
  )
  const queue = histogram(
    'kvx_queue_time_seconds',
    'How long a prompt has waited for free pages and for its turn at the model; at decode that of prefill is in it.',
    seconds.short,
  )
  const wire = histogram(
    'kvx_kv_transfer_latency_seconds',
    'How long bytes of a prompt were on their way, from the first write to the last acknowledgement, without the computing between them.',
    seconds.short,
  )
  const size = histogram(
    'kvx_kv_transfer_bytes',
    'Bytes of the transfer of a prompt.',
    [1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10],
  )
  const speed = histogram(
    'kvx_kv_transfer_speed_gb_s',
    'Bytes of a transfer by the time that they were on their way, in 10^9 bytes per second.',
    [0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500],
  )

  /** When the last token of each answer came. */
  const lastTokens = new WeakMap<RequestRecord, Map<unknown, number>>()

  function tokenCame(record: RequestRecord, { at, sample }: WorkerEvent): void {
    generatedTokens.inc()
    if (record.generated === 1) firstToken.observe((record.moments.token ?? 0) / 1_000)
    const times = lastTokens.get(record) ?? new Map<unknown, number>()
    const before = times.get(sample)
    if (before !== undefined) betweenTokens.observe((at - before) / 1_000)
    lastTokens.set(record, times.set(sample, at))
  }

  function transferred({ transfer }: RequestRecord): void {
    if (transfer === undefined) return
    const { bytes, ms, queueMs } = transfer
    transfers.inc({ result: 'success' })
    transferBytes.inc(bytes)
    queue.observe(queueMs / 1_000)
    wire.observe(ms / 1_000)
    size.observe(bytes)
    if (ms > 0) speed.observe(bytes / ms / 1e6)
  }

  return {
    registry,
    transferFailed(error) {
      transfers.inc({ result: error.code === 'ERR_KVX_ABORTED' ? 'aborted' : 'failed' })
    },
    requestBegan() {
      live.inc()
    },
    requestEnded(result) {
      live.dec()
      requests.inc({ result })
    },
    failed(code) {
      if (code !== 'ERR_KVX_ABORTED') failures.inc({ code })
    },
    observe(record, event) {
      const { moments } = record
      switch (event.name) {
        case 'request.received':
          promptTokens.inc(record.tokens)
          return
        case 'pages.leased':
          cachedTokens.inc(record.cachedTokens)
          return
        case 'room.reserved':
          bootstrap.observe(
            ((moments['room.reserved'] ?? 0) - (moments['room.opened'] ?? 0)) / 1_000,
          )
          return
        case 'transfer.complete':
          transferred(record)
          return
        case 'token':
          tokenCame(record, event)
          return
        case 'request.done':
          whole.observe((record.ended ?? 0) / 1_000)
          return
        default:
      }
    },
  }
}

const phases = ['bootstrap', 'pages', 'model', 'transfer', 'running'] as const

function phaseOf({ moments, chunks }: RequestRecord): (typeof phases)[number] {
  if (moments.token !== undefined) return 'running'
  if (moments['room.opened'] === undefined) return 'model'
  const { 'pages.leased': leased, 'room.reserved': reserved } = moments
  // Prefill knows of decode before it asks for pages, decode asks for them first.
  if (leased === undefined) return reserved === undefined ? 'bootstrap' : 'pages'
  if (reserved === undefined) return 'bootstrap'
  return reserved > leased || chunks.length > 0 ? 'transfer' : 'model'
}
