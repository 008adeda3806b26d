/** A process that this command starts: the same command line, forked. */
import { fork, type ChildProcess } from 'node:child_process'
import { createInterface } from 'node:readline'
import { KvxError } from '@kvx/contract'
import type { Ready, Word } from './lifetime.ts'

/** Milliseconds that a child has to end by itself before it is killed. */
const stopDeadlineMs = 5_000
/** Lines of stderr that are kept until a child is ready, to be shown if it never is. */
const keptLines = 20

/** Children that run. They have no life of their own: whatever ends this process ends them. */
const running = new Set<ChildProcess>()
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL')
})

export class Child {
  readonly name: string
  /** Resolves with what it published; rejects when it ends before that. */
  readonly ready: Promise<Ready>
  /** Resolves once it is gone, with a few words about how. */
  readonly gone: Promise<string>
  readonly #process: ChildProcess

  /**
   * @param secrets are variables of the child's environment: argv is visible to every user of the machine
   * @param isQuiet What it says is only told when it ends before it is ready, in the error of `ready`
   */
  constructor(
    name: string,
    args: readonly string[],
    secrets: Readonly<Record<string, string>>,
    { isQuiet = false }: { isQuiet?: boolean } = {},
  ) {
    this.name = name
    this.#process = fork(new URL('./main.js', import.meta.url), args, {
      env: { ...process.env, ...secrets },
      execArgv: [],
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    })
    const child = this.#process
    const held: string[] = []
    let ready = false
    let lastWords = ''
    const flush = () => {
      for (const line of held.splice(0)) if (!isQuiet) process.stderr.write(`${line}\n`)
    }
    if (child.stderr !== null) {
      createInterface({ input: child.stderr }).on('line', (line) => {
        held.push(line)
        lastWords = line.replace(/^kvx: /, '')
        if (ready) flush()
        else if (held.length > keptLines) held.shift()
      })
    }
    running.add(child)
    this.gone = new Promise<string>((resolve) => {
      // The listener stays: an error is also that a word did not reach a child that is just gone.
      child.on('error', (error) => {
        if (child.pid === undefined) resolve(error.message)
      })
      // 'close' comes when stderr has been read to its end as well.
      child.once('close', (code, signal) => {
        resolve(signal === null ? `exit code ${String(code)}` : `signal ${signal}`)
      })
    }).then((how) => {
      running.delete(child)
      flush()
      return how
    })
    this.ready = Promise.race([
      new Promise<Ready>((resolve) => {
        child.on('message', (message: Partial<Ready>) => {
          if (message.type !== 'ready') return
          ready = true
          flush()
          resolve(message as Ready)
        })
      }),
      this.gone.then((how): never => {
        const words = isQuiet && lastWords !== '' ? lastWords : 'its last words are above.'
        throw new KvxError(
          'ERR_KVX_INTERNAL',
          `${name} ended before it was ready (${how}): ${words}`,
        )
      }),
    ])
    this.ready.catch(() => undefined)
  }

  get pid(): number | undefined {
    return this.#process.pid
  }

  /** Asks it to end, and resolves when it has. */
  async ask(word: Word): Promise<void> {
    const child = this.#process
    // It may be gone between the look and the word; then there is nobody to tell.
    if (child.connected) child.send(word, () => undefined)
    await this.gone
  }

  /** Asks it to end at once, and ends it when it does not. */
  async stop(): Promise<void> {
    const late = setTimeout(() => this.#process.kill('SIGKILL'), stopDeadlineMs)
    await this.ask('stop')
    clearTimeout(late)
  }
}
