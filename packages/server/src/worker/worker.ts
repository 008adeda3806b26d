/** A worker: one model behind HTTP, which prefills, decodes, or does both. */
import { hostname } from 'node:os'
import {
  BootstrapServer,
  defaultDeadlines,
  KVManager,
  type Deadlines,
  settingsFor,
  type Limits,
} from '@kvx/core'
import { KvxError, silentLog, type Backend, type Log } from '@kvx/contract'
import { LlamaModel, type KvCacheDtype, type LoadOptions } from '@kvx/llama'
import { bareHost, urlHost } from '../http/address.ts'
import { Admission, within } from '../http/drain.ts'
import { listen, type Draining, type HttpOptions, type Listening } from '../http/server.ts'
import type { Call } from './call.ts'
import { Cleanup } from './cleanup.ts'
import { workerApp } from './app.ts'
import { exhaust, type Compute } from './compute.ts'
import { receivePrompt } from './decode.ts'
import { EventLog, type WorkerEvent } from './events.ts'
import { CachePools } from './cache-pools.ts'
import { Feed } from '../dashboard/feed.ts'
import { addDashboard } from '../dashboard/serve.ts'
import { isEnd, Journal, summary } from './journal.ts'
import { trace } from './spans.ts'
import { LiveRequests } from './live.ts'
import { answerLocally } from './local.ts'
import { workerMetrics } from './metrics.ts'
import { PrefillHosts } from './prefill-hosts.ts'
import { sendPrompt } from './prefill.ts'
import { generateAlone } from './standalone.ts'
import { SelfCheck, type PartnerOptions } from './self-check.ts'
import { Strangers } from './strangers.ts'

export type WorkerMode = 'null' | 'prefill' | 'decode'

export interface WorkerOptions {
  /** `null`: both in this process, without a transfer. */
  readonly mode: WorkerMode
  /** A GGUF file. */
  readonly model: string
  /** Under which clients know the model. Default: the path. */
  readonly modelName?: string | undefined
  /** Default 127.0.0.1. Peers must be able to reach it. */
  readonly host?: string | undefined
  /** Default 0: any free port. */
  readonly port?: number | undefined
  /** prefill: where it publishes itself, 0 for any free port. decode: assumed when a request names none. Default 8998. */
  readonly bootstrapPort?: number | undefined
  /**
   * decode: names, addresses and CIDR ranges of prefill workers that requests may name. Default: loopback when `host`
   * is loopback, else any.
   */
  readonly prefillHosts?: readonly string[] | undefined
  /** The deployment's secret; needed unless the mode is `null`. */
  readonly token?: string | undefined
  /** Default `shm`. */
  readonly backend?: string | Backend | undefined
  readonly backendOptions?: Record<string, unknown> | undefined
  /** The folder or file URL from which backends are looked for. Default: the working directory. */
  readonly from?: string | undefined
  /** Tokens. Default 16. */
  readonly pageSize?: number | undefined
  /** Tokens of prompt and answer together. Default: what the model was trained on, at most 2048. */
  readonly contextLength?: number | undefined
  /** What K of the cache is kept as; V is f16. Default f16. */
  readonly kvCacheDtype?: KvCacheDtype | undefined
  /** Requests worked on at the same time; more wait. Default 4. */
  readonly maxRunningRequests?: number | undefined
  /** Requests that wait; one more is refused with `ERR_KVX_OVER_LIMIT`. Default 256. */
  readonly maxQueuedRequests?: number | undefined
  /** Tokens. Default 512. */
  readonly chunkedPrefillSize?: number | undefined
  /** Whether prompts share the cache of beginnings that are alike. Default true. */
  readonly prefixCache?: boolean | undefined
  /** Decode asks for digests of all that moves; another mode has no use for it. */
  readonly verifyKV?: boolean | undefined
  /** Its name in errors and logs. Default: role, host and process id. */
  readonly instance?: string | undefined
  /** Milliseconds, for all workers of a deployment: each takes those of its mode. Those that are not given have their defaults. */
  readonly deadlines?: Partial<Deadlines> | undefined
  /** As `deadlines`. */
  readonly limits?: Partial<Limits> | undefined
  /** Who may ask it over HTTP, and how. */
  readonly http?: HttpOptions | undefined
  readonly log?: Log | undefined
  /** Told while the model file is read whole, to identify it: once for each file, until it changes. */
  readonly onModelRead?: LoadOptions['onProgress']
  /** Told of everything that happens to requests, in order. */
  readonly onEvent?: ((event: WorkerEvent) => void) | undefined
}

export interface RunningWorker extends Listening, Draining {
  /** prefill only. */
  readonly bootstrapPort: number | undefined
}

/**
 * Loads the model, opens the transfer engine, and serves.
 * @throws KvxError `ERR_KVX_MODEL`, `ERR_KVX_ADDRESS_UNAVAILABLE`, `ERR_KVX_INVALID_OPTION`, `ERR_KVX_BACKEND_*`, `ERR_KVX_MEMORY`
 */
export async function startWorker(options: WorkerOptions): Promise<RunningWorker> {
  const cleanup = new Cleanup()
  try {
    const parts = await open(options, cleanup)
    let closed: Promise<void> | undefined
    return { ...parts, close: () => (closed ??= cleanup.run()) }
  } catch (cause) {
    // What failed first is what a person needs to know.
    await cleanup.run().catch(() => undefined)
    throw cause
  }
}

async function open(given: WorkerOptions, cleanup: Cleanup): Promise<Omit<RunningWorker, 'close'>> {
  const host = bareHost(given.host ?? '127.0.0.1')
  const options = { ...given, host }
  const { mode, log = silentLog, maxRunningRequests = 4 } = options
  const { maxQueuedRequests = 256 } = options
  if (mode === 'prefill' && ['0.0.0.0', '::'].includes(host)) {
    throw new KvxError(
      'ERR_KVX_INVALID_OPTION',
      `A prefill worker tells decode its host, and ${host} is no address to connect to: give the one under which decode reaches this machine, such as --host ${hostname()}.`,
      { phase: 'open' },
    )
  }
  const admission = new Admission(
    mode === 'null' ? 'worker' : `${mode} worker`,
    maxRunningRequests + maxQueuedRequests,
  )
  const pageTokens = options.pageSize ?? 16
  const model = await LlamaModel.load({
    path: options.model,
    contextLength: options.contextLength,
    // One prompt is computed at a time: prefill has no use for more.
    sequences: mode === 'prefill' ? 1 : maxRunningRequests,
    chunkTokens: options.chunkedPrefillSize,
    pageTokens,
    kvCacheDtype: options.kvCacheDtype,
    // Each running request can have as many as its context takes.
    pages: (contextLength) =>
      mode === 'null' ? 0 : maxRunningRequests * Math.ceil(contextLength / pageTokens),
    log,
    onProgress: options.onModelRead,
  })
  cleanup.add(() => model.dispose())
  const transfer = mode === 'null' ? undefined : await openTransfer(options, mode, model, cleanup)
  const pages = transfer && { pages: () => transfer.pools.counts() }
  const feed: Feed = new Feed({
    source: {
      name: options.instance ?? `${mode === 'null' ? 'worker' : mode}-${String(process.pid)}`,
      role: mode,
    },
    ...pages,
    ...(transfer && { peers: () => transfer.manager.peers() }),
  })
  cleanup.add(() => {
    feed.close()
    return Promise.resolve()
  })
  const journal: Journal = new Journal((record, event) => {
    metrics.observe(record, event)
    feed.changed(record)
    if (!isEnd(event.name)) return
    log.info(summary(record), event.name)
    trace(record, mode)
  })
  const metrics = workerMetrics({
    journal,
    ...pages,
    labels: { backend: transfer?.manager.engine.backend ?? 'none', mode },
  })
  const events = new EventLog(log, (event) => {
    journal.observe(event)
    options.onEvent?.(event)
  })
  const bootstrapPort = transfer?.bootstrapPort
  const { compute, check } = computeWith(options, model, transfer, metrics)
  cleanup.add(() => check.close())
  const app = workerApp({
    model,
    modelName: options.modelName ?? options.model,
    modelPath: options.model,
    live: new LiveRequests(),
    compute,
    check,
    flush: () => transfer?.pools.flush(),
    events,
    metrics,
    admission,
    log,
    info: {
      disaggregation_mode: mode,
      pid: process.pid,
      instance: options.instance ?? null,
      bootstrap_port: bootstrapPort ?? null,
      transfer_backend: transfer?.manager.engine.backend ?? null,
      page_size: pageTokens,
      kv_cache_dtype: options.kvCacheDtype ?? 'f16',
      prefix_cache: transfer?.pools.hasPrefixCache ?? false,
      kv_settings: model.cache.shape.settings ?? {},
      context_length: model.contextLength,
      max_running_requests: maxRunningRequests,
      max_queued_requests: maxQueuedRequests,
    },
  })
  addDashboard(app, (c) => feed.stream(c, journal.records()))
  // Closed first: a request whose connection is cut gives back what it holds.
  cleanup.add(() => admission.idle())
  const { port: wanted = 0, http } = options
  const listening = await listen(app, { host, port: wanted, http, log })
  cleanup.add(() => listening.close())
  const { port, url } = listening
  log.info({ url, mode, bootstrapPort }, 'worker is ready')
  events.of()('worker.ready', { url, mode, bootstrapPort })
  return {
    ...{ host, port, url, bootstrapPort },
    async drain(deadlineMs) {
      admission.drain()
      listening.endIdle()
      log.info({}, 'takes no new requests: it is about to end')
      events.of()('worker.draining')
      const ended = Promise.all([admission.idle(), transfer?.manager.drain({ deadlineMs })])
      return within(deadlineMs, ended)
    },
  }
}

interface Transfer {
  readonly manager: KVManager
  readonly pools: CachePools
  /** What the other side of a self-check is opened with. */
  readonly partner: PartnerOptions
  /** prefill only: its own service. */
  readonly bootstrap: string | undefined
  /** prefill only. */
  readonly bootstrapPort: number | undefined
}

async function openTransfer(
  options: WorkerOptions,
  mode: 'prefill' | 'decode',
  model: LlamaModel,
  cleanup: Cleanup,
): Promise<Transfer> {
  const { token, host = '127.0.0.1', log = silentLog } = options
  if (token === undefined) {
    throw new KvxError('ERR_KVX_INVALID_OPTION', `A ${mode} worker needs the deployment's token.`)
  }
  const bootstrap =
    mode === 'prefill'
      ? await BootstrapServer.open({ host, port: options.bootstrapPort ?? 8998, token, log })
      : undefined
  cleanup.add(async () => bootstrap?.close())
  const partner = {
    backend: options.backend ?? 'shm',
    ...(options.backendOptions && { backendOptions: options.backendOptions }),
    ...(options.from !== undefined && { from: options.from }),
    shape: model.cache.shape,
    token,
    log,
  }
  const common = {
    ...partner,
    place: model.cache.place,
    memory: [model.memory],
    ...(options.instance !== undefined && { instance: options.instance }),
    deadlines: settingsFor(mode, options.deadlines ?? {}, 'deadline'),
    limits: settingsFor(mode, options.limits ?? {}, 'limit'),
  }
  const manager = bootstrap
    ? await KVManager.open({ ...common, role: 'prefill', host, bootstrap: bootstrap.address })
    : await KVManager.open({ ...common, role: 'decode', verifyKV: options.verifyKV ?? false })
  cleanup.add(() => manager.close())
  const pools = new CachePools(model.cache, { prefixCache: options.prefixCache ?? true })
  return { manager, pools, partner, bootstrap: bootstrap?.address, bootstrapPort: bootstrap?.port }
}

/** How requests are computed, and how the same way is tried without one. */
function computeWith(
  options: WorkerOptions,
  model: LlamaModel,
  transfer: Transfer | undefined,
  metrics: ReturnType<typeof workerMetrics>,
): { compute: Compute; check: SelfCheck } {
  if (transfer === undefined) {
    const check = SelfCheck.alone(model, (call) => exhaust(generateAlone(model, call)))
    return {
      compute: { kind: 'answer', run: (call, use) => use(generateAlone(model, call)) },
      check,
    }
  }
  const queueMs = options.deadlines?.queue ?? defaultDeadlines.queue
  const { manager, pools, partner, bootstrap = '' } = transfer
  const side = { model, metrics, queueMs, pools }
  if (manager.role === 'prefill') {
    const prefill = { ...side, manager }
    return {
      compute: {
        kind: 'prefill',
        run: (call, opened) => sendPrompt(prefill, call, roomOf(call, 'prefill'), opened),
      },
      check: SelfCheck.prefill(prefill, bootstrap, partner),
    }
  }
  const decodeSide = { ...side, manager, strangers: new Strangers() }
  const hosts = options.prefillHosts
    ? new PrefillHosts(options.prefillHosts)
    : PrefillHosts.byDefault(options.host ?? '127.0.0.1')
  const run: (Compute & { kind: 'answer' })['run'] = (call, use) => {
    // Of no prefill worker: a router leaves a short prompt to decode, or has nobody else.
    if (Object.values(call.bootstrap).every((field) => field === undefined)) {
      return answerLocally(side, call, use)
    }
    const room = roomOf(call, 'decode')
    const { host, port = options.bootstrapPort ?? 8998 } = call.bootstrap
    if (host === undefined) {
      throw new KvxError(
        'ERR_KVX_INVALID_ARGUMENT',
        'A decode worker needs bootstrap_host, the host of the prefill worker: send requests through a router.',
        { phase: 'open' },
      )
    }
    const find = async () => {
      const address = await hosts.addressOf(host)
      return `tcp://${urlHost(address)}:${String(port)}`
    }
    return receivePrompt(decodeSide, call, room, find, use)
  }
  return { compute: { kind: 'answer', run }, check: SelfCheck.decode(decodeSide, partner) }
}

function roomOf({ bootstrap: { room } }: Call, mode: string): bigint {
  if (room !== undefined) return room
  throw new KvxError(
    'ERR_KVX_INVALID_ARGUMENT',
    `A ${mode} worker does one half of a request and needs bootstrap_room, which pairs both: send requests through a router.`,
    { phase: 'open' },
  )
}
