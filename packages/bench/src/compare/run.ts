/** Every engine on the same prompts, beside one process that does both; in rounds, in which all take turns. */
import { ask, numbersOf, sameTokens, type Outcome } from '../serving/ask.ts'
import { startPair, startStandalone, type Deployment } from '../serving/deployment.ts'
import type { Launch } from '../serving/launch.ts'
import { promptOf } from '../serving/prompts.ts'
import { inLanes } from './lanes.ts'

/** An engine by name, or `standalone`: prefill and decode in one process. */
export interface Contender {
  readonly name: string
  readonly version?: string | undefined
  /** As `--transfer-backend-options` takes them. */
  readonly options?: string | undefined
  /** Why it cannot run here. */
  readonly unavailable?: string | undefined
}

export const standalone = 'standalone'

export interface CompareOptions {
  readonly launch: Launch
  readonly contenders: readonly Contender[]
  readonly model: string
  /** Longest prompt and answer together that the model takes. */
  readonly trainedContext: number
  /** Tokens of the prompts. */
  readonly inputs: readonly number[]
  /** Tokens of each answer. */
  readonly output: number
  readonly repeat: number
  /** Requests to each contender before the first round, which nobody counts. Its prompts have at most `warmupTokens` tokens. */
  readonly warmup: number
  /** Requests at once, for prefill and decode beside two standalone workers; none: not measured. */
  readonly concurrency: readonly number[]
  readonly chunkedPrefillSize?: number | undefined
  /** What K of the cache is kept as, in every process. Default f16. */
  readonly kvCacheDtype?: string | undefined
  readonly seed: number
  readonly signal?: AbortSignal | undefined
  /** Told in words what happens next, and how far the run is. */
  readonly onProgress?: ((what: string, done: number, all: number) => void) | undefined
}

/** One request to one contender. */
export interface CompareSample {
  readonly contender: string
  readonly input: number
  readonly round: number
  readonly outcome: 'ok' | 'wrong' | 'failed'
  readonly message?: string
  readonly ttftMs?: number
  readonly gapsMs?: readonly number[]
  readonly ms?: number
  readonly queueMs?: number
  readonly wireMs?: number
  readonly bytes?: number
}

/** Many requests at once to two processes: prefill and decode, or two that do both. */
export interface LoadSample {
  readonly contender: string
  readonly concurrency: number
  readonly input: number
  readonly round: number
  readonly requests: number
  readonly failed: number
  readonly message?: string
  readonly seconds: number
  /** Of the answers. */
  readonly outputTokens: number
  readonly ttftMs: readonly number[]
  readonly gapsMs: readonly number[]
}

export interface CompareResult {
  readonly contenders: readonly Contender[]
  /** Prompts that the model has no room for, with the reason. */
  readonly unfit: readonly { readonly input: number; readonly reason: string }[]
  readonly samples: readonly CompareSample[]
  readonly loads: readonly LoadSample[]
}

/**
 * Of a prompt before the first round: what is to be warm, which is the code, the sessions and what memory they touch, does not depend
 * on the length, and a long prompt takes seconds.
 */
export const warmupTokens = 64

/** For one request; on one slow core a prompt of many thousand tokens takes minutes. */
const deadlineMs = 3_600_000

/**
 * What cannot start is in the result with the reason, as is a request that failed; after the signal, what was measured so far.
 * The answers of every engine are compared with those of one process, if that takes part.
 */
export async function runCompare(options: CompareOptions): Promise<CompareResult> {
  const { inputs, output, trainedContext, signal, onProgress } = options
  const fits = (input: number): boolean => input + output <= trainedContext
  const unfit = inputs
    .filter((input) => !fits(input))
    .map((input) => ({
      input,
      reason: `a prompt of ${String(input)} tokens and an answer of ${String(output)} are more than the ${String(trainedContext)} tokens that the model takes`,
    }))
  const fitting = inputs.filter(fits)
  if (fitting.length === 0) return { contenders: options.contenders, unfit, samples: [], loads: [] }
  onProgress?.('starting the workers', 0, 1)
  const field = new Field(options, Math.max(...fitting) + output)
  try {
    const contenders = await field.open()
    const samples: CompareSample[] = []
    const loads: LoadSample[] = []
    if (signal?.aborted !== true) {
      await measureOneByOne(options, field, fitting, samples)
      await measureTogether(options, field, Math.min(...fitting), loads)
    }
    return { contenders, unfit, samples, loads }
  } finally {
    await field.close()
  }
}

/** All that was started. */
class Field {
  readonly running = new Map<string, Deployment>()
  /** Another standalone worker: what prefill and decode are compared with when there is more than one request. */
  second: Deployment | undefined
  readonly #options: CompareOptions
  readonly #contextLength: number

  constructor(options: CompareOptions, contextLength: number) {
    this.#options = options
    this.#contextLength = contextLength
  }

  /** @returns the contenders; what did not start is unavailable now */
  async open(): Promise<Contender[]> {
    const { contenders, launch, model, concurrency, chunkedPrefillSize, kvCacheDtype, signal } =
      this.#options
    const worker = {
      ...{ model, contextLength: this.#contextLength, chunkedPrefillSize, kvCacheDtype },
      maxRunningRequests: Math.max(1, ...concurrency),
    }
    const all: Contender[] = []
    // One after the other: the first one may still have to read the model into the page cache.
    for (const contender of contenders) {
      if (contender.unavailable !== undefined || signal?.aborted === true) {
        all.push(contender)
        continue
      }
      try {
        const { name } = contender
        const started =
          name === standalone
            ? await startStandalone(launch, name, worker)
            : await startPair(launch, contender, worker)
        this.running.set(name, started)
        all.push(contender)
      } catch (cause) {
        all.push({ ...contender, unavailable: (cause as Error).message })
      }
    }
    if (concurrency.length > 0 && this.running.has(standalone)) {
      this.second = await startStandalone(launch, 'standalone 2', worker)
    }
    return all
  }

  async close(): Promise<void> {
    const all = [...this.running.values(), ...(this.second ? [this.second] : [])]
    await Promise.all(all.map((one) => one.stop()))
  }
}

async function measureOneByOne(
  options: CompareOptions,
  field: Field,
  inputs: readonly number[],
  samples: CompareSample[],
): Promise<void> {
  const { output, repeat, warmup, seed, signal, onProgress } = options
  const names = [...field.running.keys()]
  const askOne = (name: string, input: number, variant: number): Promise<Outcome> => {
    const prompt = promptOf(seed + 1_000_003 * variant + input, input)
    return ask(field.running.get(name)!.url, { prompt, maxTokens: output }, { signal, deadlineMs })
  }
  for (let k = 0; k < warmup && !isAborted(signal); k++) {
    onProgress?.('warming up', k, warmup)
    // Prompts that no round has: no prefix cache may know those.
    for (const name of names) await askOne(name, Math.min(warmupTokens, ...inputs), repeat + 1 + k)
  }
  const all = repeat * inputs.length * names.length
  let done = 0
  for (let round = 1; round <= repeat; round++) {
    for (const input of inputs) {
      const order = inTurns(names, round)
      const outcomes = new Map<string, Outcome>()
      for (const name of order) {
        if (signal?.aborted === true) return
        onProgress?.(
          `${name}, ${String(input)} tokens, round ${String(round)} of ${String(repeat)}`,
          done++,
          all,
        )
        outcomes.set(name, await askOne(name, input, round))
      }
      if (isAborted(signal)) return
      const alone = outcomes.get(standalone)
      for (const name of names) {
        samples.push(sampleOf(name, { input, round }, outcomes.get(name)!, alone))
      }
    }
  }
}

/** Another one begins in every round. */
const inTurns = (names: readonly string[], round: number): string[] =>
  names.map((_, i) => names[(i + round - 1) % names.length]!)

const isAborted = (signal: AbortSignal | undefined): boolean => signal?.aborted === true

function sampleOf(
  contender: string,
  { input, round }: { input: number; round: number },
  outcome: Outcome,
  alone: Outcome | undefined,
): CompareSample {
  const which = { contender, input, round }
  if (!outcome.ok)
    return { ...which, outcome: 'failed', message: `${outcome.code}: ${outcome.message}` }
  const { ms, tokens } = outcome.answer
  const numbers = { ms, ...numbersOf(outcome.answer) }
  const isWrong = alone?.ok === true && !sameTokens(alone.answer.tokens, tokens)
  return isWrong
    ? {
        ...{ ...which, outcome: 'wrong', ...numbers },
        message: `the answer was ${JSON.stringify(tokens)}, that of one process ${JSON.stringify(alone.answer.tokens)}`,
      }
    : { ...which, outcome: 'ok', ...numbers }
}

/** So many requests for each that is under way at once. */
const requestsPerLane = 2

async function measureTogether(
  options: CompareOptions,
  field: Field,
  input: number,
  loads: LoadSample[],
): Promise<void> {
  const { concurrency, output, repeat, seed, signal, onProgress } = options
  const names = [...field.running.keys()]
  const all = concurrency.length * repeat * names.length
  for (let round = 1; round <= repeat; round++) {
    for (const lanes of concurrency) {
      const order = inTurns(names, round)
      for (const contender of order) {
        if (signal?.aborted === true) return
        onProgress?.(
          `${contender}, ${String(lanes)} requests at once, round ${String(round)} of ${String(repeat)}`,
          loads.length,
          all,
        )
        const urls = urlsOf(field, contender)
        const requests = Math.max(4, requestsPerLane * lanes)
        const began = performance.now()
        const outcomes = await inLanes(lanes, requests, (number, lane) => {
          const prompt = promptOf(seed + 7_919 * round + 104_729 * number + lanes, input)
          const url = urls[lane % urls.length]!
          return ask(url, { prompt, maxTokens: output }, { signal, deadlineMs })
        })
        if (isAborted(signal)) return
        const seconds = (performance.now() - began) / 1_000
        loads.push(loadOf({ contender, concurrency: lanes, input, round, seconds }, outcomes))
      }
    }
  }
}

/** One request alone has one process to itself; more are dealt out to both. */
function urlsOf(field: Field, contender: string): string[] {
  const { url } = field.running.get(contender)!
  return contender === standalone && field.second ? [url, field.second.url] : [url]
}

function loadOf(
  which: Pick<LoadSample, 'contender' | 'concurrency' | 'input' | 'round' | 'seconds'>,
  outcomes: readonly Outcome[],
): LoadSample {
  const answers = outcomes.flatMap((one) => (one.ok ? [one.answer] : []))
  const failure = outcomes.find((one) => !one.ok)
  return {
    ...which,
    ...{ requests: outcomes.length, failed: outcomes.length - answers.length },
    ...(failure?.ok === false && { message: `${failure.code}: ${failure.message}` }),
    outputTokens: answers.reduce((total, { tokens }) => total + tokens.length, 0),
    ttftMs: answers.map(({ ttftMs }) => ttftMs),
    gapsMs: answers.flatMap(({ gaps }) => gaps),
  }
}
