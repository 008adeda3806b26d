/** Real kvx processes for tests: started from the built command, observed through their log, ended with the test file. */
import { fork, type ChildProcess } from 'node:child_process'
import { EventEmitter, once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

const command = fileURLToPath(new URL('../../bin/kvx.js', import.meta.url))

/** Milliseconds within which anything a test waits for must happen, on a busy machine too. */
export const patience = 120_000

/** One line of a worker's debug log that is about a request. */
export interface WorkerEvent {
  readonly sequence: number
  readonly name: string
  readonly request: string
  readonly room: string
  readonly pages?: readonly number[] | number
  readonly tokens?: readonly number[] | number
  readonly code?: string
  /** What is not told to clients. */
  readonly reason?: string
}

export class Process {
  readonly events: WorkerEvent[] = []
  url = ''
  bootstrapPort = 0
  /** Resolves when it is gone, with its exit code or the signal that ended it. */
  readonly gone: Promise<number | NodeJS.Signals>
  readonly #child: ChildProcess
  readonly #seen = new EventEmitter()
  readonly #stderr: string[] = []

  private constructor(args: readonly string[], token: string) {
    this.#child = fork(command, [...args, '--log-level', 'debug'], {
      env: { ...process.env, KVX_TOKEN: token },
      execArgv: [],
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    })
    this.#seen.setMaxListeners(0)
    this.gone = once(this.#child, 'exit').then(
      ([code, signal]) => (signal ?? code) as number | NodeJS.Signals,
    )
    const { stderr } = this.#child
    if (stderr !== null) {
      createInterface({ input: stderr }).on('line', (line) => {
        this.#line(line)
      })
    }
  }

  static async start(args: readonly string[], token = 'a token for tests'): Promise<Process> {
    const started = new Process(args, token)
    const ready = once(started.#child, 'message') as Promise<
      [{ url: string; bootstrapPort?: number }]
    >
    const ended = started.gone.then(() => {
      throw new Error(`kvx ${args.join(' ')} ended:\n${started.#stderr.slice(-20).join('\n')}`)
    })
    const [{ url, bootstrapPort = 0 }] = await Promise.race([ready, ended])
    ended.catch(() => undefined)
    started.url = url
    started.bootstrapPort = bootstrapPort
    return started
  }

  /** The first event, past or future, after `since` that fits. */
  async event(
    fits: (event: WorkerEvent) => boolean,
    { since = 0 }: { since?: number } = {},
  ): Promise<WorkerEvent> {
    const signal = AbortSignal.timeout(patience)
    for (let i = since; ; i++) {
      while (i >= this.events.length) {
        await once(this.#seen, 'event', { signal }).catch((cause: unknown) => {
          const last = this.events.slice(-15).map((e) => `${e.name} ${e.room}`)
          throw new Error(`the event did not come; the last were:\n${last.join('\n')}`, { cause })
        })
      }
      const event = this.events[i]
      if (event !== undefined && fits(event)) return event
    }
  }

  signal(signal: NodeJS.Signals): void {
    this.#child.kill(signal)
  }

  async stop(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return
    // It may be gone between the look and the word; then there is nobody to tell.
    if (this.#child.connected) this.#child.send('stop', () => undefined)
    const late = setTimeout(() => this.#child.kill('SIGKILL'), 10_000)
    await this.gone
    clearTimeout(late)
  }

  #line(line: string): void {
    this.#stderr.push(line)
    if (!line.startsWith('{')) return
    const { event } = JSON.parse(line) as { event?: WorkerEvent }
    if (event === undefined) return
    this.events.push(event)
    this.#seen.emit('event')
  }
}

/** A router before one worker of each role. */
export function startRouter(
  prefill: Process,
  decode: Process,
  ...more: readonly string[]
): Promise<Process> {
  return Process.start([
    ...['router', '--port', '0', '--decode', decode.url],
    ...['--prefill', `${prefill.url},${String(prefill.bootstrapPort)}`],
    ...more,
  ])
}

/** The value of each state of `kvx_pages`; what the prefix cache would give back is free. */
export async function pageGauges(worker: Process): Promise<Record<string, number>> {
  const text = await (await fetch(`${worker.url}/metrics`)).text()
  const rows = text.matchAll(/^kvx_pages\{state="(\w+)"\} (\d+)$/gm)
  const gauges: Record<string, number> = {}
  for (const [, state = '', value] of rows) {
    const name = state === 'cached' ? 'free' : state
    gauges[name] = (gauges[name] ?? 0) + Number(value)
  }
  return gauges
}

export interface Completion {
  readonly status: number
  readonly text: string
  readonly tokens: readonly number[]
  readonly kvx: {
    readonly prompt_tokens: number
    readonly evaluated_tokens: number
    readonly cached_tokens: number
    readonly transfer?: {
      pages: number
      bytes: number
      chunks: number
      ms: number
      backend: string
      prefixTokens?: number
    }
  }
  readonly usage: { prompt_tokens: number; completion_tokens: number; total_tokens: number }
  readonly finishReason: string
}

interface Body {
  readonly choices: readonly { text: string; token_ids: number[]; finish_reason: string | null }[]
  readonly usage?: Completion['usage']
  readonly kvx?: Completion['kvx']
}

/** With the key that the processes of a test were started with, if any. */
export const withKey = (): Record<string, string> =>
  process.env.KVX_API_KEY === undefined
    ? {}
    : { authorization: `Bearer ${process.env.KVX_API_KEY}` }

export function post(url: string, body: object, signal?: AbortSignal): Promise<Response> {
  return fetch(`${url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...withKey() },
    body: JSON.stringify(body),
    ...(signal && { signal }),
  })
}

export interface Question {
  readonly prompt: string | readonly number[]
  readonly stream: boolean
  readonly [field: string]: unknown
}

/** The answer to a request, streamed or not, with everything a test wants to look at. */
export async function complete(url: string, body: Question): Promise<Completion> {
  const full = {
    ...body,
    return_token_ids: true,
    ...(body.stream && { stream_options: { include_usage: true } }),
  }
  const response = await post(url, full)
  const text = await response.text()
  if (!response.ok) throw new Error(`${String(response.status)} ${text}`)
  const parts = body.stream ? events(text) : [JSON.parse(text) as Body]
  const choices = parts.flatMap((part) => part.choices)
  const last = parts.at(-1)
  if (last?.usage === undefined || last.kvx === undefined) throw new Error(`no usage in ${text}`)
  return {
    status: response.status,
    text: choices.map((choice) => choice.text).join(''),
    tokens: choices.flatMap((choice) => choice.token_ids),
    kvx: last.kvx,
    usage: last.usage,
    finishReason: choices.at(-1)?.finish_reason ?? '',
  }
}

function events(text: string): Body[] {
  const lines = text.split('\n\n').filter((line) => line !== '')
  if (lines.pop() !== 'data: [DONE]')
    throw new Error(`the stream does not end with [DONE]: ${text}`)
  return lines.map((line) => JSON.parse(line.replace(/^data: /, '')) as Body)
}
