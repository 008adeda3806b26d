/** The parent's end of a rank's process. */
import { fork, type ChildProcess } from 'node:child_process'
import { isErrorCode, KvxError } from '@kvx/contract'
import { rankName } from '@kvx/core/bytes'
import type { Answer, Word } from './child.ts'
import type { Job, RankOptions } from './options.ts'
import type { RankResult } from './rank.ts'

/** They have no life of their own: whatever ends this process ends them. */
const running = new Set<ChildProcess>()
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL')
})

interface Served {
  readonly resolve: (result: RankResult) => void
  readonly written: () => void
}

export class RankProcess {
  readonly options: RankOptions
  /** Rejects when the process ends before it was told to, or fails outside of any request. */
  readonly failed: Promise<never>
  readonly #child: ChildProcess
  readonly #served = new Map<string, Served>()
  readonly #opened: Promise<{ backend: string; version: string }>
  readonly #closed: Promise<number>
  readonly #gone: Promise<void>
  #isClosed = false

  /** @param program `child.js`, that of this build unless another one is given */
  constructor(options: RankOptions, program = new URL('./child.js', import.meta.url)) {
    this.options = options
    const child = fork(program, [], {
      execArgv: [],
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    })
    this.#child = child
    running.add(child)
    let opened: (engine: { backend: string; version: string }) => void = () => undefined
    let closed: (lostPages: number) => void = () => undefined
    let failed: (error: Error) => void = () => undefined
    this.#opened = new Promise((resolve) => (opened = resolve))
    this.#closed = new Promise((resolve) => (closed = resolve))
    this.failed = new Promise<never>((_, reject) => (failed = reject))
    this.failed.catch(() => undefined)
    child.on('message', (answer: Answer) => {
      switch (answer.is) {
        case 'open':
          opened(answer.engine)
          return
        case 'written':
          this.#served.get(answer.room)?.written()
          return
        case 'served':
          this.#served.get(answer.room)?.resolve(answer.result)
          this.#served.delete(answer.room)
          return
        case 'closed':
          this.#isClosed = true
          closed(answer.lostPages)
          return
        case 'failed': {
          const { code, message } = answer.error
          failed(new KvxError(isErrorCode(code) ? code : 'ERR_KVX_INTERNAL', message))
        }
      }
    })
    this.#gone = new Promise((resolve) => {
      const end = (how: string) => {
        running.delete(child)
        if (!this.#isClosed)
          failed(new KvxError('ERR_KVX_INTERNAL', `The process of ${this.name} ended: ${how}.`))
        resolve()
      }
      // The listener stays: an error is also that a word did not reach a child that is just gone.
      child.on('error', (error) => {
        if (child.pid === undefined) end(error.message)
      })
      child.once('exit', (code, signal) => {
        end(signal === null ? `exit code ${String(code)}` : `signal ${signal}`)
      })
    })
  }

  get name(): string {
    return `${this.options.role} rank ${rankName(this.options.rank)}`
  }

  /** @throws what `KVManager.open` throws there */
  open(): Promise<{ backend: string; version: string }> {
    this.#say({ do: 'open', options: this.options })
    return Promise.race([this.#opened, this.failed])
  }

  /** @throws KvxError when the process ends meanwhile */
  serve(job: Job, onWritten: () => void): Promise<RankResult> {
    const result = new Promise<RankResult>((resolve) => {
      this.#served.set(job.room, { resolve, written: onWritten })
    })
    this.#say({ do: 'serve', job })
    return Promise.race([result, this.failed])
  }

  abort(room: string): void {
    this.#say({ do: 'abort', room })
  }

  /** @returns pages that were not free at the end */
  async close(): Promise<number> {
    this.#say({ do: 'close' })
    const lostPages = await Promise.race([this.#closed, this.failed])
    if (this.#child.connected) this.#child.disconnect()
    await this.#gone
    return lostPages
  }

  async kill(): Promise<void> {
    this.#child.kill('SIGKILL')
    await this.#gone
  }

  #say(word: Word): void {
    // It may be gone: `failed` says so.
    this.#child.send(word, () => undefined)
  }
}
