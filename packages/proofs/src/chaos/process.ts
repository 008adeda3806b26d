/** A kvx process that is watched through its log and may be killed, frozen and started again. */
import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { createWriteStream, type WriteStream } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import type { LoggedEvent } from './phases.ts'

/** The built command. */
export const command = join(
  dirname(createRequire(import.meta.url).resolve('kvx/package.json')),
  'bin/kvx.js',
)

/** Whatever ends this process, none of its children goes on: a frozen one would not notice. */
const running = new Set<ChildProcess>()
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL')
})

export interface Ready {
  readonly url: string
  readonly bootstrapPort?: number
}

export class KvxProcess {
  readonly name: string
  readonly pid: number
  /** Every event that it has logged. */
  readonly events: LoggedEvent[] = []
  /** Milliseconds since 1970. */
  readonly startedAt = Date.now()
  /** Resolves with what it publishes; rejects when it ends before. */
  readonly ready: Promise<Ready>
  /** Resolves with how it ended, once its log has been read to the end. */
  readonly gone: Promise<string>
  readonly #child: ChildProcess
  readonly #listener: (event: LoggedEvent) => void
  readonly #file: WriteStream
  readonly #lastLines: string[] = []
  #rest = ''

  /**
   * @param logFile gets everything that it logs
   * @param networkOf a process in whose network namespace it runs. Default: this one's
   */
  constructor(options: {
    name: string
    args: readonly string[]
    env: Readonly<Record<string, string>>
    logFile: string
    networkOf?: number
    onEvent: (event: LoggedEvent) => void
  }) {
    this.name = options.name
    this.#listener = options.onEvent
    this.#file = createWriteStream(options.logFile)
    const { networkOf } = options
    const child = fork(command, [...options.args, '--log-level', 'debug'], {
      env: { ...process.env, ...options.env },
      ...(networkOf === undefined ? { execArgv: [] } : enter(networkOf)),
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    })
    this.#child = child
    running.add(child)
    this.pid = child.pid ?? 0
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.#read(text)
    })
    this.gone = once(child, 'close').then(([code, signal]: (number | string | null)[]) => {
      running.delete(child)
      this.#file.end()
      return signal === null ? `exit code ${String(code)}` : `signal ${String(signal)}`
    })
    this.ready = Promise.race([
      once(child, 'message').then(([message]: Ready[]) => message!),
      this.gone.then((how): never => {
        throw new Error(
          `${this.name} ended before it was ready (${how}):\n${this.#lastLines.join('\n')}`,
        )
      }),
    ])
    this.ready.catch(() => undefined)
  }

  get running(): boolean {
    return this.#child.exitCode === null && this.#child.signalCode === null
  }

  signal(signal: NodeJS.Signals): void {
    this.#child.kill(signal)
  }

  #read(text: string): void {
    this.#file.write(text)
    const lines = (this.#rest + text).split('\n')
    this.#rest = lines.pop() ?? ''
    for (const line of lines) {
      this.#lastLines.push(line)
      if (this.#lastLines.length > 20) this.#lastLines.shift()
      const logged = eventOf(line)
      if (logged === undefined) continue
      this.events.push(logged)
      this.#listener(logged)
    }
  }
}

/** `nsenter` becomes Node once it is in the namespace: the child keeps its id and its channel. */
const enter = (pid: number) => ({
  execPath: 'nsenter',
  execArgv: [`--net=/proc/${String(pid)}/ns/net`, process.execPath],
})

function eventOf(line: string): LoggedEvent | undefined {
  if (!line.startsWith('{"level":20')) return undefined
  const { time, event, msg } = JSON.parse(line) as { time: number; event?: object; msg: string }
  // The welcome that prefill gives to a decode worker is of no request.
  if (msg === 'peer.welcomed') return { name: msg, request: '', time }
  return event === undefined ? undefined : { ...(event as LoggedEvent), time }
}
