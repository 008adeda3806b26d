/** Requests that arrive at a rate, through a router, for some time; and what is left when they have ended. */
import { setTimeout as delay } from 'node:timers/promises'
import { ask, numbersOf, sameTokens, type Outcome } from '../serving/ask.ts'
import {
  startPair,
  startStandalone,
  type Deployment,
  type ModelOptions,
} from '../serving/deployment.ts'
import type { Launch } from '../serving/launch.ts'
import { MemoryWatch, type MemorySample } from '../serving/memory.ts'
import { leakedPages } from '../serving/pages.ts'
import { promptOf } from '../serving/prompts.ts'
import { randomOf } from '../synthetic/random.ts'

export interface LoadOptions {
  readonly launch: Launch
  readonly engine: { readonly name: string; readonly options?: string | undefined }
  readonly model: string
  /** Arrivals a second on the average, at random. */
  readonly rate: number
  /** Requests under way at once; later ones are held back by the client. */
  readonly concurrency: number
  readonly seconds: number
  /** Tokens of each prompt, and of each answer. */
  readonly input: number
  readonly output: number
  readonly maxRunningRequests: number
  readonly maxQueuedRequests: number
  /** Every so many answers one is compared with that of one process, after the load. None: 0. */
  readonly checkEvery: number
  readonly seed: number
  readonly signal?: AbortSignal | undefined
  readonly onProgress?: ((what: string, done: number, all: number) => void) | undefined
}

export interface LoadRequest {
  readonly number: number
  /** Since the load began. */
  readonly arrivedSeconds: number
  /** Milliseconds for which the client held it back. */
  readonly heldMs: number
  /** `ok`, or the code of what went wrong. */
  readonly outcome: string
  readonly message?: string
  readonly ttftMs?: number
  readonly gapsMs?: readonly number[]
  readonly queueMs?: number
  readonly wireMs?: number
  readonly bytes?: number
  /** Whether its answer is that of one process; absent when it was not compared. */
  readonly equal?: boolean
}

export interface LoadResult {
  readonly requests: readonly LoadRequest[]
  /** From the first arrival until all had ended. */
  readonly seconds: number
  readonly leakedPages: number
  readonly memory: readonly MemorySample[]
  /** How many answers were to be compared and were not. */
  readonly unchecked: number
  /** Why, when the process to compare with failed. */
  readonly uncheckedReason?: string | undefined
}

/** For a whole answer, from when it was asked for. */
const deadlineMs = 600_000
/** In which pages must be free once no request is left. */
const restMs = 30_000

/** @throws Error when a process does not start */
export async function runLoad(options: LoadOptions): Promise<LoadResult> {
  const { launch, engine, model, input, output, signal, onProgress } = options
  const { maxRunningRequests, maxQueuedRequests } = options
  const worker = { model, contextLength: input + output, maxRunningRequests, maxQueuedRequests }
  onProgress?.('starting the workers', 0, 1)
  const pair = await startPair(launch, engine, worker)
  let result: Loaded
  try {
    result = await loaded(options, pair)
  } finally {
    await pair.stop()
  }
  const { answers, ...rest } = result
  const every = options.checkEvery
  const wanted = [...answers].filter((_, i) => every > 0 && (i + 1) % every === 0)
  const equal = new Map<number, boolean>()
  let uncheckedReason: string | undefined
  if (wanted.length > 0 && signal?.aborted !== true) {
    // What the load has shown is not lost because of it.
    await compare(options, worker, wanted, equal).catch((cause: unknown) => {
      uncheckedReason = cause instanceof Error ? cause.message : String(cause)
    })
  }
  const requests = rest.requests.map((request) => {
    const isEqual = equal.get(request.number)
    return isEqual === undefined ? request : { ...request, equal: isEqual }
  })
  return { ...rest, requests, unchecked: wanted.length - equal.size, uncheckedReason }
}

/**
 * @param equal is told of each answer, by its number
 * @throws Error when the process to compare with does not start, or does not answer
 */
async function compare(
  options: LoadOptions,
  worker: ModelOptions,
  wanted: readonly (readonly [number: number, tokens: readonly number[]])[],
  equal: Map<number, boolean>,
): Promise<void> {
  const { launch, signal, onProgress } = options
  const alone = await startStandalone(launch, 'standalone', worker)
  try {
    for (const [number, tokens] of wanted) {
      onProgress?.('comparing answers with those of one process', equal.size, wanted.length)
      const outcome = await ask(alone.url, questionOf(options, number), { signal, deadlineMs })
      if (!outcome.ok) throw new Error(`${outcome.code}: ${outcome.message}`)
      equal.set(number, sameTokens(outcome.answer.tokens, tokens))
    }
  } finally {
    await alone.stop()
  }
}

interface Loaded extends Omit<LoadResult, 'unchecked' | 'uncheckedReason'> {
  /** By the number of the request. */
  readonly answers: ReadonlyMap<number, readonly number[]>
}

const questionOf = ({ seed, input, output }: LoadOptions, number: number) => ({
  prompt: promptOf(seed + 104_729 * number, input),
  maxTokens: output,
})

async function loaded(options: LoadOptions, pair: Deployment): Promise<Loaded> {
  const { rate, concurrency, seconds, seed, signal, onProgress } = options
  const requests: LoadRequest[] = []
  const answers = new Map<number, readonly number[]>()
  const watch = new MemoryWatch(pair.processes)
  const began = performance.now()
  const since = (): number => performance.now() - began
  const random = randomOf(seed)
  const live = new Set<Promise<void>>()
  const waiting: (() => Promise<void>)[] = []

  const next = (): void => {
    if (live.size >= concurrency) return
    const begin = waiting.shift()
    if (begin === undefined) return
    const ended = begin().then(() => {
      live.delete(ended)
      next()
    })
    live.add(ended)
  }
  const arrive = (number: number): void => {
    const arrived = since()
    waiting.push(async () => {
      const heldMs = since() - arrived
      const outcome = await ask(pair.url, questionOf(options, number), { signal, deadlineMs })
      if (outcome.ok) answers.set(number, outcome.answer.tokens)
      requests.push(requestOf({ number, arrivedSeconds: arrived / 1_000, heldMs }, outcome))
    })
    next()
  }

  try {
    let at = 0
    for (let number = 1; ; number++) {
      at += (-Math.log((random() + 1) / (2 ** 32 + 1)) / rate) * 1_000
      if (at > seconds * 1_000) break
      await delay(Math.max(0, at - since()), undefined, { signal }).catch(() => undefined)
      if (signal?.aborted === true) break
      arrive(number)
      onProgress?.(
        `${String(requests.length)} answered, ${String(live.size)} under way, ${String(waiting.length)} held back`,
        since(),
        seconds * 1_000,
      )
    }
    // Nobody waits for those that were not asked when the run was ended.
    if (signal?.aborted === true) waiting.length = 0
    while (live.size > 0) await Promise.race(live)
    const took = since() / 1_000
    onProgress?.('waiting until all pages are free', 1, 1)
    const leaked = await leakedPages(pair, restMs)
    const memory = watch.samples
    return { requests, answers, seconds: took, leakedPages: leaked, memory }
  } finally {
    watch.stop()
  }
}

function requestOf(
  which: Pick<LoadRequest, 'number' | 'arrivedSeconds' | 'heldMs'>,
  outcome: Outcome,
): LoadRequest {
  if (!outcome.ok) return { ...which, outcome: outcome.code, message: outcome.message }
  return { ...which, outcome: 'ok', ...numbersOf(outcome.answer) }
}
