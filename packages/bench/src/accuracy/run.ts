/** Are caches and answers through an engine those of one process, and would it be noticed if they were not? */
import { randomBytes } from 'node:crypto'
import { fileURLToPath } from 'node:url'
import { startAsked } from '../asked.ts'
import type { Contender } from '../compare/run.ts'
import { promptOf } from '../serving/prompts.ts'
import { randomOf } from '../synthetic/random.ts'
import type { Computed, HostOptions, HostWord, Prompt } from './host.ts'
import { isRight, questions } from './questions.ts'

export interface AccuracyOptions {
  readonly contenders: readonly (Contender & {
    /** Where it is looked for: a folder or file. */
    readonly from: string
    readonly backendOptions?: Readonly<Record<string, unknown>> | undefined
  })[]
  /** A GGUF file. */
  readonly model: string
  /** Prompts of random tokens, beside the questions. */
  readonly prompts: number
  /** Tokens of the longest of them. */
  readonly longest: number
  /** Tokens of each answer. */
  readonly output: number
  /** Prefill computes and sends so many tokens at once; one process all of them. */
  readonly chunk: number
  readonly seed: number
  readonly signal?: AbortSignal | undefined
  readonly onProgress?: ((what: string, done: number, all: number) => void) | undefined
}

/** The name of the control. */
export const suppressed = 'suppressed'

export interface AccuracySample {
  readonly contender: string
  /** 1, 2, 3, …; the questions come first. */
  readonly prompt: number
  readonly length: number
  readonly temperature: number
  readonly tokensEqual: boolean
  readonly cacheEqual: boolean
  /** The first tensor that differs, or what failed. */
  readonly message?: string
  /** Of a question: whether the answer is right. */
  readonly isRight?: boolean
}

export interface AccuracyResult {
  readonly contenders: readonly Contender[]
  readonly prompts: number
  readonly questions: number
  /** Questions that one process answered as they should be. */
  readonly rightAlone: number
  readonly samples: readonly AccuracySample[]
}

/** What begins with the same blanks as the answer to a question ends here. */
const questionTokens = 8

/** @throws KvxError when the process that does everything fails; what an engine fails with is in the result */
export async function runAccuracy(options: AccuracyOptions): Promise<AccuracyResult> {
  const { contenders, signal, onProgress } = options
  const alone = start('standalone', signal)
  const samples: AccuracySample[] = []
  const rest = { questions: questions.length, samples }
  try {
    onProgress?.('loading the model', 0, 1)
    const texts = questions.map(({ text }) => text)
    await open(alone, options, { role: 'standalone', chunkTokens: contextOf(options) }, undefined)
    const tokenized = await alone.ask<number[][]>({ do: 'tokenize', texts })
    const prompts = promptsOf(options, tokenized)
    const expected: Computed[] = []
    for (const prompt of prompts) {
      onProgress?.('computing in one process', expected.length, prompts.length)
      expected.push(await alone.ask<Computed>({ do: 'compute', prompt }))
    }
    alone.kill()
    const rightAlone = expected.filter((one, i) => rightness(i, one.text) === true).length
    const all: Contender[] = []
    for (const contender of [...contenders, ...control(contenders)]) {
      const { name, version } = contender
      if (signal?.aborted === true) break
      if (contender.unavailable !== undefined) all.push(contender)
      else {
        all.push({ name, version })
        samples.push(...(await through(options, contender, prompts, expected)))
      }
    }
    return { ...rest, contenders: all, prompts: prompts.length, rightAlone }
  } finally {
    alone.kill()
  }
}

type Engine = AccuracyOptions['contenders'][number]

/** The first engine that can run, with nothing of what it writes arriving. */
function control(contenders: readonly Engine[]): Engine[] {
  const of = contenders.find(({ unavailable }) => unavailable === undefined)
  if (of === undefined) return []
  const backendOptions = { of: of.name, from: of.from, ...of.backendOptions }
  const path = fileURLToPath(new URL('./suppressed.js', import.meta.url))
  return [{ name: suppressed, from: path, backendOptions }]
}

const contextOf = ({ longest, output }: AccuracyOptions): number => Math.max(256, longest + output)

const start = (role: HostOptions['role'], signal: AbortSignal | undefined) =>
  startAsked<HostWord>(new URL('./host.js', import.meta.url), `The ${role} process`, signal)

function open(
  host: ReturnType<typeof start>,
  options: AccuracyOptions,
  { role, chunkTokens }: Pick<HostOptions, 'role' | 'chunkTokens'>,
  engine: (Engine & { readonly token: string }) | undefined,
): Promise<{ bootstrap?: string }> {
  const isControl = engine?.name === suppressed
  return host.ask({
    do: 'open',
    options: {
      ...{ role, chunkTokens, model: options.model, contextLength: contextOf(options) },
      ...{ token: engine?.token ?? '', from: engine?.from ?? '' },
      backend: isControl ? engine.from : (engine?.name ?? ''),
      backendOptions: engine?.backendOptions ?? {},
    },
  })
}

/** The questions, then random tokens; every second one of these is drawn with a temperature. */
function promptsOf(
  { prompts, longest, output, seed }: AccuracyOptions,
  tokenized: readonly number[][],
): Prompt[] {
  const random = randomOf(seed)
  const greedy = { temperature: 0, ignoreEos: true }
  return [
    ...tokenized.map((tokens) => ({ tokens, maxTokens: questionTokens, sampling: greedy })),
    ...Array.from({ length: prompts }, (_, i) => ({
      tokens: promptOf(random(), 2 + (random() % (longest - 1))),
      maxTokens: output,
      sampling: i % 2 === 0 ? greedy : { temperature: 0.8, seed: i, ignoreEos: true },
    })),
  ]
}

function rightness(number: number, text: string): boolean | undefined {
  const question = questions[number]
  return question && isRight(question, text)
}

async function through(
  options: AccuracyOptions,
  engine: Engine,
  prompts: readonly Prompt[],
  expected: readonly Computed[],
): Promise<AccuracySample[]> {
  const { signal, onProgress, chunk } = options
  const [prefill, decode] = [start('prefill', signal), start('decode', signal)]
  const samples: AccuracySample[] = []
  try {
    const token = randomBytes(32).toString('hex')
    const one = (host: typeof prefill, role: 'prefill' | 'decode') =>
      open(host, options, { role, chunkTokens: chunk }, { ...engine, token })
    const [{ bootstrap = '' }] = await Promise.all([one(prefill, 'prefill'), one(decode, 'decode')])
    for (const [i, prompt] of prompts.entries()) {
      onProgress?.(`through ${engine.name}`, i, prompts.length)
      const which = {
        ...{ contender: engine.name, prompt: i + 1, length: prompt.tokens.length },
        temperature: prompt.sampling.temperature ?? 1,
      }
      const room = i + 1
      const [received, sent] = await Promise.allSettled([
        decode.ask<Computed>({ do: 'receive', prompt, room, from: bootstrap }),
        prefill.ask({ do: 'send', prompt, room }),
      ])
      if (signal?.aborted === true) break
      const failure = [received, sent].find((part) => part.status === 'rejected')
      samples.push(
        received.status === 'fulfilled' && failure === undefined
          ? { ...which, ...compared(received.value, expected[i]!, i) }
          : { ...which, tokensEqual: false, cacheEqual: false, message: String(failure?.reason) },
      )
    }
    return samples
  } catch (cause) {
    if (signal?.aborted === true) return samples
    const which = { contender: engine.name, prompt: 0, length: 0, temperature: 0 }
    return [{ ...which, tokensEqual: false, cacheEqual: false, message: String(cause) }]
  } finally {
    prefill.kill()
    decode.kill()
  }
}

function compared(found: Computed, expected: Computed, number: number) {
  const names = Object.keys(expected.digests)
  const different = names.find((name) => found.digests[name] !== expected.digests[name])
  const isAnswerRight = rightness(number, found.text)
  return {
    tokensEqual: String(found.tokens) === String(expected.tokens),
    cacheEqual: different === undefined && Object.keys(found.digests).length === names.length,
    ...(different !== undefined && { message: `${different} is not that of one process` }),
    ...(isAnswerRight !== undefined && { isRight: isAnswerRight }),
  }
}
