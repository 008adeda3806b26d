/** A worker of a deployment, which may be killed, frozen and started again; and its present process. */
import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import type { Answer, End, Gauge, Job, Word, WorkerOptions } from './worker.ts'

/** The built one, also for tests, which run the sources. */
const program = join(
  dirname(createRequire(import.meta.url).resolve('@kvx/proofs/package.json')),
  'dist/soak/worker.js',
)

/** Whatever ends this process ends its workers, the frozen ones too. */
const running = new Set<ChildProcess>()
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL')
})

/** Milliseconds that a worker may take to open and to close, on a machine whose cores others want before it. */
const patienceMs = 300_000

/** The process was killed, or is not there yet. */
const gone: End = { code: 'gone' }

export class Worker {
  readonly name: string
  readonly options: WorkerOptions
  /** It lives as long as the run. */
  readonly isKept: boolean
  readonly #env: NodeJS.ProcessEnv
  #child: ChildProcess | undefined
  /** By room. */
  readonly #served = new Map<string, (end: End) => void>()
  readonly #gauges: ((gauge: Gauge | undefined) => void)[] = []
  #said: ((answer: Answer) => void) | undefined
  #isExpectedToEnd = true
  #isOpen = false
  /** What it did that nobody asked for. */
  readonly failures: string[] = []

  constructor(options: WorkerOptions, isKept: boolean, env: Readonly<Record<string, string>>) {
    this.options = options
    this.isKept = isKept
    this.name = `${options.backend} ${options.instance}`
    this.#env = { ...process.env, ...env }
  }

  get pid(): number | undefined {
    return this.#child?.pid
  }

  /** @throws Error when it does not open */
  async start(): Promise<void> {
    const child = fork(program, [], {
      env: this.#env,
      execArgv: ['--expose-gc'],
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    })
    this.#child = child
    this.#isExpectedToEnd = false
    running.add(child)
    child.on('message', (answer: Answer) => {
      this.#hear(answer)
    })
    // That a word did not reach a child that is just gone is an error too.
    child.on('error', () => undefined)
    child.once('exit', (code, signal) => {
      running.delete(child)
      if (!this.#isExpectedToEnd)
        this.failures.push(`${this.name} ended by itself: ${signal ?? `exit code ${String(code)}`}`)
      this.#child = undefined
      this.#isOpen = false
      for (const end of this.#served.values()) end(gone)
      this.#served.clear()
      for (const tell of this.#gauges.splice(0)) tell(undefined)
    })
    await this.#ask({ do: 'open', options: this.options }, 'open')
    this.#isOpen = true
  }

  /** Resolves when the leg has ended, or the process has; at once while there is none. */
  serve(job: Job): Promise<End> {
    if (!this.#isOpen) return Promise.resolve(gone)
    const ended = new Promise<End>((resolve) => this.#served.set(job.room, resolve))
    this.#say({ do: 'serve', job })
    return ended
  }

  abort(room: string): void {
    this.#say({ do: 'abort', room })
  }

  /** Undefined when the process is gone, or says nothing for so long. */
  gauge(withinMs: number): Promise<Gauge | undefined> {
    if (this.#child === undefined) return Promise.resolve(undefined)
    return new Promise((resolve) => {
      const late = setTimeout(resolve, withinMs, undefined)
      this.#gauges.push((gauge) => {
        clearTimeout(late)
        resolve(gauge)
      })
      this.#say({ do: 'gauge' })
    })
  }

  signal(signal: NodeJS.Signals): void {
    this.#child?.kill(signal)
  }

  async kill(): Promise<void> {
    const child = this.#child
    this.#isExpectedToEnd = true
    if (child === undefined) return
    const exit = once(child, 'exit')
    child.kill('SIGKILL')
    await exit
  }

  /** @throws Error when it does not close and end in time */
  async close(): Promise<void> {
    const child = this.#child
    if (child === undefined) return
    await this.#ask({ do: 'close' }, 'closed')
    this.#isExpectedToEnd = true
    const exit = once(child, 'exit')
    child.disconnect()
    await exit
  }

  async #ask(word: Word, wanted: Answer['is']): Promise<void> {
    const child = this.#child!
    const answered = new Promise<void>((resolve, reject) => {
      const late = setTimeout(() => {
        reject(new Error(`${this.name} has not answered '${word.do}' in time`))
      }, patienceMs)
      const over = (error?: Error) => {
        clearTimeout(late)
        this.#said = undefined
        if (error) reject(error)
        else resolve()
      }
      child.once('exit', () => {
        over(new Error(`${this.name} ended before it had answered '${word.do}'`))
      })
      this.#said = (answer) => {
        if (answer.is === 'failed') over(new Error(`${this.name}: ${answer.message}`))
        else if (answer.is === wanted) over()
      }
    })
    this.#say(word)
    await answered
  }

  #hear(answer: Answer): void {
    switch (answer.is) {
      case 'served':
        this.#served.get(answer.room)?.(answer.end)
        this.#served.delete(answer.room)
        return
      case 'gauge':
        this.#gauges.shift()?.(answer.gauge)
        return
      case 'failed':
        if (this.#said === undefined) this.failures.push(`${this.name}: ${answer.message}`)
        this.#said?.(answer)
        return
      case 'open':
      case 'closed':
        this.#said?.(answer)
    }
  }

  #say(word: Word): void {
    this.#child?.send(word, () => undefined)
  }
}
