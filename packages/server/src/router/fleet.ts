/** The workers of a router, and which of them get the next request. */
import { KvxError, type Log } from '@kvx/contract'
import { misfit, wrongAlone } from './fit.ts'
import { Choice, type CacheAwareSettings, type Policy } from './policy.ts'
import { Prefixes, type Prompt } from './prefixes.ts'
import { PrefillWorker, Worker } from './workers.ts'

export interface FleetOptions extends CacheAwareSettings {
  /** Without a port the worker is asked for it. */
  readonly prefill: readonly { readonly url: string; readonly bootstrapPort?: number | undefined }[]
  readonly decode: readonly string[]
  readonly prefillPolicy: Policy
  readonly decodePolicy: Policy
  /** Tokens that decode computes itself rather than wait for prefill. */
  readonly maxLocalPrefillLength: number
  readonly silentMs: number
  readonly apiKey: string | undefined
  readonly log: Log
}

/** Who does a request. Without `prefill` decode does both halves, for this reason. */
export type Chosen =
  | { readonly prefill: PrefillWorker; readonly decode: Worker }
  | { readonly prefill: undefined; readonly decode: Worker; readonly reason: 'short' | 'fallback' }

export class Fleet {
  readonly prefills: readonly PrefillWorker[]
  readonly decodes: readonly Worker[]
  readonly all: readonly Worker[]
  /** Resolves when each worker has been looked at once. */
  readonly known: Promise<unknown>
  readonly #prefixes = new Prefixes()
  readonly #choosePrefill: Choice
  readonly #chooseDecode: Choice
  readonly #options: FleetOptions
  /** What the log says is wrong at present. */
  #told: readonly string[] = []

  /** @throws KvxError `ERR_KVX_INVALID_OPTION` */
  constructor(options: FleetOptions) {
    this.#options = options
    const watched = {
      ...options,
      onInfo: (worker: Worker) => {
        this.#prefixes.forget(worker)
        this.#tell()
      },
    }
    this.prefills = options.prefill.map(
      ({ url, bootstrapPort }) => new PrefillWorker(url, bootstrapPort, watched),
    )
    this.decodes = options.decode.map((url) => new Worker('decode', url, watched))
    this.all = [...this.prefills, ...this.decodes]
    if (this.prefills.length === 0 || this.decodes.length === 0) {
      throw new KvxError(
        'ERR_KVX_INVALID_OPTION',
        'A router needs at least one prefill worker and one decode worker.',
      )
    }
    this.#choosePrefill = new Choice(options.prefillPolicy, options, this.#prefixes)
    this.#chooseDecode = new Choice(options.decodePolicy, options, this.#prefixes)
    this.known = Promise.all(this.all.map((worker) => worker.look()))
  }

  /** Why workers are of no use, alone or as a pair, each reason once. */
  problems(): KvxError[] {
    const pairs = this.prefills.flatMap((prefill) => this.decodes.map((d) => misfit(prefill, d)))
    const found = [...this.all.map(wrongAlone), ...pairs].filter((error) => error !== undefined)
    return [...new Map(found.map((error) => [error.message, error])).values()]
  }

  /** Whether any two fit together, well or not. */
  get fits(): boolean {
    return this.prefills.some((prefill) =>
      this.decodes.some((d) => misfit(prefill, d) === undefined),
    )
  }

  /** Whether any two that fit together are well. */
  get ready(): boolean {
    return this.prefills.some(
      (prefill) =>
        prefill.healthy &&
        this.decodes.some((decode) => decode.healthy && misfit(prefill, decode) === undefined),
    )
  }

  /**
   * Who does a request; undefined when nobody is left.
   * @param tried workers that are not to be asked again
   * @throws KvxError `ERR_KVX_OVER_LIMIT` when those that could have as many requests as they take
   */
  choose(prompt: Prompt, tried: ReadonlySet<Worker>): Chosen | undefined {
    const decodes = this.decodes.filter(
      (decode) => !tried.has(decode) && wrongAlone(decode) === undefined,
    )
    const fitting = this.prefills.filter((prefill) =>
      decodes.some((decode) => misfit(prefill, decode) === undefined),
    )
    const prefills = fitting.filter((prefill) => !tried.has(prefill))
    if (fitting.length > 0 && fitting.every((prefill) => !prefill.healthy)) {
      const decode = this.#choose(this.#chooseDecode, decodes, prompt)
      if (decode?.healthy === true) return { prefill: undefined, decode, reason: 'fallback' }
    }
    const partnersOf = (some: readonly PrefillWorker[]) =>
      decodes.filter((decode) => some.some((prefill) => misfit(prefill, decode) === undefined))
    if (prefills.length > 0 && free(prefills).length === 0) {
      const decode = this.#choose(this.#chooseDecode, partnersOf(prefills), prompt)
      if (decode && this.#isShort(prompt, decode))
        return { prefill: undefined, decode, reason: 'short' }
    }
    const prefill = this.#choose(this.#choosePrefill, prefills, prompt)
    if (prefill === undefined) return undefined
    const decode = this.#choose(this.#chooseDecode, partnersOf([prefill]), prompt)
    if (decode === undefined) return undefined
    return this.#isShort(prompt, decode)
      ? { prefill: undefined, decode, reason: 'short' }
      : { prefill, decode }
  }

  /** To be told of each request that is sent: its prompt is then in the caches of those who did it. */
  remember({ prefill, decode }: Chosen, prompt: Prompt): void {
    if (prefill !== undefined) this.#prefixes.add(prefill, prompt)
    this.#prefixes.add(decode, prompt)
  }

  /** Their caches are empty. */
  forgetPrefixes(): void {
    for (const worker of this.all) this.#prefixes.forget(worker)
  }

  close(): void {
    for (const worker of this.all) worker.close()
  }

  #choose<W extends Worker>(choice: Choice, workers: readonly W[], prompt: Prompt) {
    const candidates = free(workers)
    if (candidates.length === 0 && workers.length > 0) {
      const [{ role } = { role: '' }] = workers
      throw new KvxError(
        'ERR_KVX_OVER_LIMIT',
        `All ${role} workers have as many requests as they take, those in their queues counted: try again in a moment.`,
        { phase: 'open' },
      )
    }
    return choice.of(candidates, prompt)
  }

  /** Whether decode has so little of a prompt to compute that prefill would take longer. */
  #isShort(prompt: Prompt, decode: Worker): boolean {
    const most = this.#options.maxLocalPrefillLength
    return most > 0 && prompt.tokens * (1 - this.#prefixes.seen(decode, prompt)) <= most
  }

  #tell(): void {
    const { log } = this.#options
    const found = this.problems()
    for (const { code, message } of found) {
      if (!this.#told.includes(message)) log.error({ code }, message)
    }
    if (this.#told.length > 0 && found.length === 0) log.info({}, 'all workers fit together now')
    this.#told = found.map(({ message }) => message)
  }
}

/** Those that take one more request, of the healthy ones; when none seems healthy the others are as good. */
function free<W extends Worker>(workers: readonly W[]): W[] {
  const healthy = workers.filter((worker) => worker.healthy)
  return (healthy.length > 0 ? healthy : [...workers]).filter((worker) => !worker.full)
}
