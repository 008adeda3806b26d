/** Real workers with a real model: one process that does both, or prefill and decode behind a router. */
import type { Launch, ServerProcess } from './launch.ts'

export interface ModelOptions {
  /** A name, or a GGUF file. */
  readonly model: string
  readonly contextLength: number
  /** Of each worker. */
  readonly maxRunningRequests: number
  /** Requests that wait at each worker. */
  readonly maxQueuedRequests?: number | undefined
  readonly chunkedPrefillSize?: number | undefined
  /** As `--kv-cache-dtype` takes it. */
  readonly kvCacheDtype?: string | undefined
}

export interface Deployment {
  /** Where requests go. */
  readonly url: string
  /** Workers that have pages, and all others. */
  readonly workers: readonly (ServerProcess & { readonly url: string })[]
  readonly processes: readonly ServerProcess[]
  stop(): Promise<void>
}

function modelArgs(options: ModelOptions): string[] {
  const { model, contextLength, maxRunningRequests, maxQueuedRequests, chunkedPrefillSize } =
    options
  const { kvCacheDtype = 'f16' } = options
  const numbers = {
    'context-length': contextLength,
    'max-running-requests': maxRunningRequests,
    'max-queued-requests': maxQueuedRequests,
    'chunked-prefill-size': chunkedPrefillSize,
  }
  const given = Object.entries(numbers).flatMap(([name, value]) =>
    value === undefined ? [] : [`--${name}=${String(value)}`],
  )
  return [
    ...[`--model=${model}`, `--kv-cache-dtype=${kvCacheDtype}`],
    ...given,
    '--log-level=error',
  ]
}

/** @throws Error when it ends before it is ready */
export async function startStandalone(
  launch: Launch,
  name: string,
  options: ModelOptions,
): Promise<Deployment> {
  const worker = launch(name, ['serve', '--port=0', ...modelArgs(options)])
  return deployed([worker], async () => (await worker.ready).url, [])
}

/** @throws Error when one of them ends before it is ready; none is left then */
export async function startPair(
  launch: Launch,
  engine: { readonly name: string; readonly options?: string | undefined },
  options: ModelOptions,
): Promise<Deployment> {
  const { name } = engine
  const worker = (mode: 'prefill' | 'decode'): ServerProcess =>
    launch(`${name} ${mode}`, [
      ...['serve', '--port=0', `--disaggregation-mode=${mode}`, `--transfer-backend=${name}`],
      // What is measured is the way, not what need not go it.
      '--disable-radix-cache',
      ...(mode === 'prefill' ? ['--disaggregation-bootstrap-port=0'] : []),
      ...(engine.options === undefined ? [] : [`--transfer-backend-options=${engine.options}`]),
      ...modelArgs(options),
    ])
  const processes = [worker('prefill'), worker('decode')]
  const [prefill, decode] = processes
  const route = async (): Promise<string> => {
    const [from, to] = await Promise.all([prefill!.ready, decode!.ready])
    const router = launch(`${name} router`, [
      ...['router', '--port=0', '--log-level=error', `--decode=${to.url}`],
      `--prefill=${from.url},${String(from.bootstrapPort)}`,
    ])
    processes.push(router)
    return (await router.ready).url
  }
  return deployed(processes, route, [prefill!, decode!])
}

async function deployed(
  processes: readonly ServerProcess[],
  start: () => Promise<string>,
  paged: readonly ServerProcess[],
): Promise<Deployment> {
  const stop = async (): Promise<void> => {
    await Promise.all(processes.map((one) => one.stop()))
  }
  try {
    const url = await start()
    const workers = await Promise.all(
      paged.map(async (one) => Object.assign(one, { url: (await one.ready).url })),
    )
    return { url, workers, processes, stop }
  } catch (cause) {
    await stop()
    throw cause
  }
}
