/** The workers that a router knows, and which of them seem to be well. */
import { KvxError, type Log } from '@kvx/contract'
import { readInfo, type WorkerInfo } from './fit.ts'

/** Milliseconds in which a worker answers a question that needs no model. */
const askTimeoutMs = 5_000
/** In which a healthy worker says so. */
const lookMs = 2_000
/** Between two looks at a worker that is not well: grows, with jitter. */
const pauseMs = { least: 100, most: 3_000 }

export interface WorkerOptions {
  /** A worker that answers nothing for this long is given up, and what it worked on fails. */
  readonly silentMs: number
  /** The workers' key, when they have one. */
  readonly apiKey: string | undefined
  readonly log: Log
  /** Called when a worker has told of itself what it had not before, or refuses to: it is new, or was started again. */
  readonly onInfo: (worker: Worker) => void
}

export class Worker {
  readonly role: 'prefill' | 'decode'
  readonly url: string
  readonly #options: WorkerOptions
  #live = 0
  #healthy = true
  #info: WorkerInfo | undefined
  #wrongKey: KvxError | undefined
  #misses = 0
  #heardAt = 0
  #looking: Promise<boolean> | undefined
  #timer: NodeJS.Timeout | undefined
  #lost = new AbortController()
  #closed = false

  /** @throws KvxError `ERR_KVX_INVALID_OPTION` when `url` is none */
  constructor(role: 'prefill' | 'decode', url: string, options: WorkerOptions) {
    this.role = role
    this.url = checkUrl(url).origin
    this.#options = options
  }

  /** As a person would name it. */
  get name(): string {
    return `the ${this.role} worker at ${this.url}`
  }

  /** Requests that it is working on for this router. */
  get live(): number {
    return this.#live
  }

  /** False while it refuses requests, cannot be reached, or does not answer. */
  get healthy(): boolean {
    return this.#healthy
  }

  /** Whether it would refuse one more: as far as this router knows, which may not be the only one that asks it. */
  get full(): boolean {
    return this.#live >= (this.#info?.capacity ?? Infinity)
  }

  /** What it told of itself when it was last well. */
  get info(): WorkerInfo | undefined {
    return this.#info
  }

  /** Why it refuses whatever this router asks it, or undefined. */
  get wrongKey(): KvxError | undefined {
    return this.#wrongKey
  }

  /** Counts a request as its own. While it has any it is looked after: `lost` is aborted when it falls silent. */
  async during<T>(work: (lost: AbortSignal) => Promise<T>): Promise<T> {
    this.#live++
    if (this.#live === 1) {
      this.#heardAt = performance.now()
      if (this.#healthy) this.#lookIn(this.#beatMs)
    }
    try {
      return await work(this.#lost.signal)
    } finally {
      this.#live--
    }
  }

  /** It took no request just now: others are preferred until it answers as a healthy one does. */
  refused(): void {
    this.#mark(false)
    this.#lookIn(pauseMs.least)
  }

  /**
   * Asks it how it is, at once, and whether that is well. It is asked again, ever more rarely, as long
   * as it is not, and regularly, more often while it works on something. One that is well is also asked what it is:
   * it may have been started again with other options.
   */
  look(): Promise<boolean> {
    this.#looking ??= this.#look().finally(() => {
      this.#looking = undefined
    })
    return this.#looking
  }

  close(): void {
    this.#closed = true
    clearTimeout(this.#timer)
  }

  get #beatMs(): number {
    return this.#options.silentMs / 4
  }

  async #look(): Promise<boolean> {
    clearTimeout(this.#timer)
    const state = await this.#state()
    const now = performance.now()
    if (state !== 'silent') this.#heardAt = now
    else if (this.#live > 0 && now - this.#heardAt >= this.#options.silentMs) this.#giveUp()
    const healthy = state === 'well'
    if (healthy) await this.#ask()
    this.#mark(healthy)
    this.#misses = healthy ? 0 : this.#misses + 1
    if (!healthy) {
      const pause = Math.min(pauseMs.most, pauseMs.least * 2 ** this.#misses)
      // Nobody else would notice in time that what it works on has stopped.
      this.#lookIn(Math.min(pause * (0.5 + Math.random() / 2), this.#beatMs))
    } else {
      this.#lookIn(this.#live > 0 ? this.#beatMs : this.#options.silentMs)
    }
    return healthy
  }

  #lookIn(ms: number): void {
    clearTimeout(this.#timer)
    if (this.#closed) return
    this.#timer = setTimeout(() => void this.look(), ms).unref()
  }

  async #state(): Promise<'well' | 'unwell' | 'silent'> {
    const signal = AbortSignal.timeout(Math.min(this.#options.silentMs / 2, lookMs))
    try {
      const response = await fetch(`${this.url}/health`, { signal })
      await response.body?.cancel()
      return response.ok ? 'well' : 'unwell'
    } catch {
      return signal.aborted ? 'silent' : 'unwell'
    }
  }

  async #ask(): Promise<void> {
    const { apiKey, onInfo } = this.#options
    try {
      const signal = AbortSignal.timeout(lookMs)
      const info = readInfo(await ask(`${this.url}/server_info`, { apiKey, signal }))
      const isKnown = JSON.stringify(info) === JSON.stringify(this.#info)
      if (isKnown && this.#wrongKey === undefined) return
      this.#info = info
      this.#wrongKey = undefined
      onInfo(this)
    } catch (cause) {
      // Of one that does not tell what it is for another reason, its partner will say what does not fit.
      if (!(cause instanceof KeyRefused) || this.#wrongKey !== undefined) return
      this.#wrongKey = new KvxError(
        'ERR_KVX_INVALID_OPTION',
        `T${this.name.slice(1)} refuses ${apiKey === undefined ? 'this router, which has no key' : 'the key of this router'}: start the router and its workers with the same --api-key or KVX_API_KEY.`,
        { cause, phase: 'open', peer: this.url },
      )
      onInfo(this)
    }
  }

  #mark(healthy: boolean): void {
    if (healthy === this.#healthy) return
    this.#healthy = healthy
    const fields = { worker: this.url, workerRole: this.role }
    if (healthy) this.#options.log.info(fields, 'worker.healthy')
    else this.#options.log.warn(fields, 'worker.unhealthy')
  }

  #giveUp(): void {
    const seconds = String(this.#options.silentMs / 1_000)
    const message = `T${this.name.slice(1)} has not answered for ${seconds} s.`
    const phase = this.role === 'prefill' ? 'transfer' : 'decode'
    this.#lost.abort(new KvxError('ERR_KVX_PEER_LOST', message, { phase, peer: this.url }))
    this.#lost = new AbortController()
  }
}

export class PrefillWorker extends Worker {
  /** As decode is to reach the bootstrap service: without the brackets of IPv6. */
  readonly host: string
  readonly #apiKey: string | undefined
  readonly #given: number | undefined
  #known: number | undefined

  /** Throws as `Worker`. */
  constructor(url: string, bootstrapPort: number | undefined, options: WorkerOptions) {
    super('prefill', url, options)
    this.host = checkUrl(url).hostname.replace(/^\[|\]$/g, '')
    this.#apiKey = options.apiKey
    this.#given = bootstrapPort
    this.#known = bootstrapPort
  }

  /**
   * Of its bootstrap service: given, or asked from the worker and kept until `forgetPort`. Rejects with
   * what `fetch` says, or KvxError `ERR_KVX_INVALID_OPTION` when it is no prefill worker.
   */
  async port(signal: AbortSignal): Promise<number> {
    this.#known ??= await this.#askPort(signal)
    return this.#known
  }

  /** After a failure: a worker that was restarted may have chosen another port. */
  forgetPort(): void {
    this.#known = this.#given
  }

  async #askPort(signal: AbortSignal): Promise<number> {
    const info = (await ask(`${this.url}/server_info`, { apiKey: this.#apiKey, signal })) as {
      bootstrap_port?: unknown
      disaggregation_mode?: unknown
    } | null
    const port = info?.bootstrap_port
    if (typeof port === 'number') return port
    throw new KvxError(
      'ERR_KVX_INVALID_OPTION',
      `The worker at ${this.url} publishes no bootstrap port: it runs in mode ${String(info?.disaggregation_mode)}, but a prefill worker is needed.`,
      { peer: this.url },
    )
  }
}

/** A worker has another key than this router. */
class KeyRefused extends Error {
  override readonly name = 'KeyRefused'
}

interface Question {
  readonly apiKey: string | undefined
  readonly signal?: AbortSignal
  /** JSON, of a POST. */
  readonly body?: string
}

/** The JSON, or text, that a GET answers with, or a POST. Rejects when it fails or takes too long, with `KeyRefused` for 401. */
export async function ask(url: string, { apiKey, signal, body }: Question): Promise<unknown> {
  const timeout = AbortSignal.timeout(askTimeoutMs)
  const response = await fetch(url, {
    headers: {
      ...(apiKey !== undefined && { authorization: `Bearer ${apiKey}` }),
      ...(body !== undefined && { 'content-type': 'application/json' }),
    },
    ...(body !== undefined && { method: 'POST', body }),
    signal: signal === undefined ? timeout : AbortSignal.any([signal, timeout]),
  })
  if (!response.ok) {
    await response.body?.cancel()
    if (response.status === 401) {
      throw new KeyRefused('it answered 401: the router needs the same --api-key as its workers')
    }
    throw new Error(`it answered ${String(response.status)}`)
  }
  const text = await response.text()
  const isJson = response.headers.get('content-type')?.startsWith('application/json') === true
  return isJson ? JSON.parse(text) : { message: text.trim() }
}

function checkUrl(url: string): URL {
  const parsed = URL.canParse(url) ? new URL(url) : undefined
  if (parsed?.protocol === 'http:' || parsed?.protocol === 'https:') return parsed
  throw new KvxError(
    'ERR_KVX_INVALID_OPTION',
    `'${url}' is no worker's address: write it as http://host:port.`,
  )
}
