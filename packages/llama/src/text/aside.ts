import { fork, type ChildProcess } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { KvxError } from '@kvx/contract'
import { abortError } from '../abort.ts'

export interface Order {
  readonly text: string
  readonly enough: number
}

export type Answer = { readonly vocabulary: number } | { readonly tokens: Uint32Array }

interface Job extends Order {
  resolve(tokens: Uint32Array): void
  reject(error: unknown): void
}

const maxWaiting = 64
const startMs = 60_000
const workMs = 30_000

// The same file for the sources, which tests load, and for what is built of them.
const program = fileURLToPath(new URL('../../dist/text/child.js', import.meta.url))

/**
 * Tokenizes long texts one after the other in another process, which is started for the first of them and
 * has the vocabulary alone. Another process, since llama.cpp is bound to the event loop of one thread, and
 * since a text that breaks its tokenizer then ends nothing but this process: the next text gets another.
 */
export class Aside {
  readonly #path: string
  readonly #vocabulary: number
  readonly #line: Job[] = []
  #busy = false
  #closed = false
  #child: Promise<ChildProcess> | undefined

  /** @param vocabulary tokens that the model in `path` has */
  constructor(path: string, vocabulary: number) {
    this.#path = path
    this.#vocabulary = vocabulary
  }

  /**
   * @param enough stops once there are so many tokens
   * @throws KvxError `ERR_KVX_OVER_LIMIT` when too many texts wait, `ERR_KVX_TIMEOUT`, `ERR_KVX_MODEL` when the
   *   other process ends, `ERR_KVX_ABORTED`, `ERR_KVX_CLOSED`
   */
  tokenize(text: string, enough: number, signal?: AbortSignal): Promise<Uint32Array> {
    if (this.#closed) return Promise.reject(closed())
    if (signal?.aborted) return Promise.reject(abortError(signal))
    if (this.#line.length >= maxWaiting) {
      return Promise.reject(
        new KvxError(
          'ERR_KVX_OVER_LIMIT',
          `${String(maxWaiting)} long prompts wait to be tokenized: try again later.`,
        ),
      )
    }
    let onAbort: (() => void) | undefined
    const done = new Promise<Uint32Array>((resolve, reject) => {
      const job = { text, enough, resolve, reject }
      this.#line.push(job)
      onAbort = () => {
        const place = this.#line.indexOf(job)
        if (place >= 0) this.#line.splice(place, 1)
        if (signal) reject(abortError(signal))
      }
    })
    if (onAbort) signal?.addEventListener('abort', onAbort)
    void this.#work()
    return done.finally(() => {
      if (onAbort) signal?.removeEventListener('abort', onAbort)
    })
  }

  /** Fails what waits, and ends the process. */
  async close(): Promise<void> {
    this.#closed = true
    for (const job of this.#line.splice(0)) job.reject(closed())
    const child = await this.#child?.catch(() => undefined)
    if (child) await ended(child)
  }

  async #work(): Promise<void> {
    if (this.#busy) return
    this.#busy = true
    for (let job = this.#line.shift(); job; job = this.#line.shift()) {
      try {
        const child = await (this.#child ??= this.#start())
        const answer = await exchange(child, workMs, { text: job.text, enough: job.enough })
        if (!('tokens' in answer)) throw unexpected('answered without tokens')
        job.resolve(answer.tokens)
      } catch (cause) {
        const child = await this.#child?.catch(() => undefined)
        this.#child = undefined
        if (child) await ended(child)
        job.reject(this.#closed ? closed() : cause)
      }
    }
    this.#busy = false
  }

  async #start(): Promise<ChildProcess> {
    const child = fork(program, [this.#path], {
      stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
      execArgv: [],
      serialization: 'advanced',
      env: { ...process.env, NODE_OPTIONS: '' },
    })
    // What it is asked for keeps this process alive; it alone does not.
    child.on('error', () => undefined)
    try {
      const answer = await exchange(child, startMs)
      if ('vocabulary' in answer && answer.vocabulary === this.#vocabulary) return child
      throw unexpected(`found another vocabulary in ${this.#path}, which has changed`)
    } catch (cause) {
      await ended(child)
      throw cause
    }
  }
}

/** Waits for the next answer of the other process, after giving it an order. */
function exchange(child: ChildProcess, ms: number, order?: Order): Promise<Answer> {
  const { channel } = child
  return new Promise<Answer>((resolve, reject) => {
    const timer = setTimeout(() => {
      end(() => {
        reject(
          new KvxError(
            'ERR_KVX_TIMEOUT',
            `A prompt was not tokenized within ${String(ms / 1000)} s: it is given up.`,
          ),
        )
      })
    }, ms)
    const onAnswer = (answer: Answer) => {
      end(() => {
        resolve(answer)
      })
    }
    const onExit = (code: number | null, signal: string | null) => {
      end(() => {
        reject(unexpected(signal === null ? `ended with code ${String(code)}` : `got ${signal}`))
      })
    }
    const onError = (cause: Error) => {
      end(() => {
        reject(unexpected(`could not be reached (${cause.message})`))
      })
    }
    const end = (settle: () => void) => {
      clearTimeout(timer)
      child.off('message', onAnswer).off('exit', onExit).off('error', onError)
      child.unref()
      channel?.unref()
      settle()
    }
    if (child.exitCode !== null || child.signalCode !== null) {
      onExit(child.exitCode, child.signalCode)
      return
    }
    child.ref()
    channel?.ref()
    child.on('message', onAnswer).on('exit', onExit).on('error', onError)
    if (order) {
      child.send(order, (cause) => {
        if (cause) onError(cause)
      })
    }
  })
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return
  const gone = new Promise<void>((resolve) => {
    child.once('exit', () => {
      resolve()
    })
  })
  child.ref()
  child.kill('SIGKILL')
  await gone
}

const unexpected = (what: string) =>
  new KvxError(
    'ERR_KVX_MODEL',
    `The process that tokenizes long prompts ${what}. This prompt has no answer; the next one starts the process again.`,
  )

const closed = () =>
  new KvxError('ERR_KVX_CLOSED', 'The model was closed while a prompt was being tokenized.')
