/** A process with engines in it. */
import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import type { Reply } from '../child/channel.ts'
import type { Commands } from '../child/main.ts'
import { childArguments, childProgram, type Fixture } from '../fixture.ts'
import { freeze } from './freeze.ts'

export type Side = 'writer' | 'owner'

/** What a call in the process was refused with. */
export class Refusal extends Error {
  override readonly name = 'Refusal'
  readonly code: string
  readonly isKvxError: boolean

  constructor({ name, code, message, stack }: Extract<Reply, { error: object }>['error']) {
    super(message)
    this.code = code
    this.isKvxError = name === 'KvxError'
    if (!this.isKvxError && stack !== undefined) this.message += `\n${stack}`
  }
}

type Args<Name extends keyof Commands> = Parameters<Commands[Name]>
type Value<Name extends keyof Commands> = Awaited<ReturnType<Commands[Name]>>

interface Waiter {
  readonly name: string
  readonly resolve: (value: never) => void
  readonly reject: (error: Error) => void
}

/** No call takes longer that ends at all. */
const longestMs = 60_000

export class Party {
  readonly side: Side
  /** Rejections in the process that nobody handled. */
  readonly unhandled: string[] = []
  /** Whether it can serve another test. */
  reusable = true
  readonly #process: ChildProcess
  readonly #waiters = new Map<number, Waiter>()
  readonly #exited: Promise<unknown>
  #output = ''
  #last = 0

  constructor(fixture: Fixture, side: Side) {
    const { init, env } = childArguments(fixture, side)
    this.side = side
    this.#process = fork(childProgram('main'), [init], {
      env,
      execArgv: ['--expose-gc'],
      serialization: 'advanced',
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    })
    this.#exited = once(this.#process, 'exit').then(([code, signal]) => {
      this.reusable = false
      const how = signal === null ? `code ${String(code)}` : `signal ${String(signal)}`
      for (const { name, reject } of this.#waiters.values()) {
        reject(new Error(`The ${side} ended with ${how} during ${name}.${this.output}`))
      }
      this.#waiters.clear()
    })
    for (const stream of [this.#process.stdout, this.#process.stderr]) {
      stream?.on('data', (text: Buffer) => {
        this.#output = (this.#output + text.toString()).slice(-2000)
      })
    }
    this.#process.on('message', (reply: Reply) => this.#take(reply))
  }

  get pid(): number {
    return this.#process.pid ?? 0
  }

  /** The last that it wrote, for people. */
  get output(): string {
    return this.#output === '' ? '' : `\nThe ${this.side} wrote: ${this.#output}`
  }

  /**
   * @throws Refusal what the call was refused with
   * @throws Error when the process ends, or does not answer
   */
  ask<Name extends keyof Commands>(name: Name, ...args: Args<Name>): Promise<Value<Name>> {
    if (!this.isAlive) return Promise.reject(new Error(`The ${this.side} is gone.${this.output}`))
    const id = ++this.#last
    return new Promise<Value<Name>>((resolve, reject) => {
      const timer = setTimeout(() => {
        this.reusable = false
        this.#waiters.delete(id)
        reject(new Error(`The ${this.side} has not answered ${name} for ${longestMs} ms.`))
      }, longestMs)
      const ended =
        <T>(then: (value: T) => void) =>
        (value: T) => {
          clearTimeout(timer)
          then(value)
        }
      this.#waiters.set(id, { name, resolve: ended(resolve), reject: ended(reject) })
      this.#process.send({ id, name, args }, (error) => {
        if (error === null) return
        this.#waiters.get(id)?.reject(error)
        this.#waiters.delete(id)
      })
    })
  }

  get isAlive(): boolean {
    return this.#process.exitCode === null && this.#process.signalCode === null
  }

  async freeze(): Promise<void> {
    await freeze(this.pid)
  }

  thaw(): void {
    this.#process.kill('SIGCONT')
  }

  async kill(): Promise<void> {
    this.reusable = false
    if (this.isAlive) this.#process.kill('SIGKILL')
    await this.#exited
  }

  #take(reply: Reply): void {
    if ('unhandled' in reply) {
      this.unhandled.push(reply.unhandled)
      return
    }
    const waiter = this.#waiters.get(reply.id)
    this.#waiters.delete(reply.id)
    if ('error' in reply) waiter?.reject(new Refusal(reply.error))
    else waiter?.resolve(reply.value as never)
  }
}
