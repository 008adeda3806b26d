/** `kvx up`: prefill, decode and router on one machine; with --once one prompt, checked against a standalone worker. */
import type { ArgsDef } from 'citty'
import { KvxError } from '@kvx/contract'
import { Child } from '../children.ts'
import {
  drainMs,
  httpFlags,
  httpOptions,
  logLevels,
  workerTimeoutFlag,
  type Command,
} from '../command.ts'
import { complete } from '../completion.ts'
import { Flags, spellings } from '../flags.ts'
import { stopRequested, type Ready, type Stop } from '../lifetime.ts'
import { pullProgress } from '../progress.ts'
import { machineReport, personReport, type Outcome } from '../report.ts'
import { Supervised } from '../supervised.ts'
import { newToken } from '../token.ts'
import { UsageError } from '../usage.ts'
import { routing, routingFlags } from './router.ts'
import { engineFlags, engineOptions, prefixCache, protocolSettings } from './serve.ts'

const args = {
  ...engineFlags,
  host: {
    type: 'string',
    valueHint: 'HOST',
    description: 'Address of the router. Default: 127.0.0.1',
  },
  port: { type: 'string', valueHint: 'PORT', description: 'Port of the router. Default: 30000' },
  prefill: { type: 'string', valueHint: 'N', description: 'Prefill workers. Default: 1' },
  decode: { type: 'string', valueHint: 'N', description: 'Decode workers. Default: 1' },
  ...routingFlags,
  ...workerTimeoutFlag,
  ...httpFlags,
  once: {
    type: 'string',
    valueHint: 'PROMPT',
    description:
      'Answer one prompt, compare with a standalone worker, and end: exit code 0 if equal',
  },
  'max-tokens': { type: 'string', valueHint: 'N', description: 'With --once. Default: 32' },
  temperature: { type: 'string', valueHint: 'T', description: 'With --once. Default: 0, greedy' },
  seed: { type: 'string', valueHint: 'S', description: 'With --once. Default: 0' },
  json: { type: 'boolean', description: 'With --once: print one JSON object instead of text' },
} as const satisfies ArgsDef

const onceOnly = ['max-tokens', 'temperature', 'seed', 'json']
/** What the router alone is told: nobody but it asks the workers. */
const routerFlags = [
  ...Object.keys(routingFlags),
  ...['allowed-hosts', 'allowed-origins', 'keep-alive-timeout', 'worker-timeout'],
]
const serveOnly = ['host', 'port', 'prefill', 'decode', 'drain-timeout', ...routerFlags]

export const up: Command = {
  meta: { name: 'up', description: 'Run prefill, decode and a router on this machine' },
  args,
  main: async (rawArgs) => {
    const flags = Flags.parse(rawArgs, args)
    const once = flags.string('once')
    for (const name of once === undefined ? onceOnly : serveOnly) {
      if (!flags.has(name)) continue
      throw new UsageError(
        once === undefined ? `--${name} needs --once.` : `--${name} does not go with --once.`,
      )
    }
    const logLevel = flags.choice('log-level', logLevels) ?? (once === undefined ? 'info' : 'warn')
    engineOptions(flags)
    prefixCache(flags)
    protocolSettings(flags)
    const { apiKey } = httpOptions(flags)
    const question = {
      prompt: once ?? '',
      maxTokens: flags.integer('max-tokens', 1, 2 ** 31 - 1) ?? 32,
      temperature: flags.number('temperature', 0, 2) ?? 0,
      seed: flags.integer('seed', 0, 2 ** 32 - 1) ?? 0,
      apiKey,
    }
    const cluster = {
      host: flags.string('host') ?? '127.0.0.1',
      port: flags.integer('port', 0, 65535) ?? 30000,
      prefill: flags.integer('prefill', 1, 64) ?? 1,
      decode: flags.integer('decode', 1, 64) ?? 1,
      routerFlags: given(flags, [...routerFlags, 'drain-timeout']),
    }
    // The parent waits a little longer than its children do, who have the last word.
    const drain = drainMs(flags) + 5_000
    flags.number('worker-timeout', 0.1, 86_400)
    routing(flags)
    if (once === '')
      throw new UsageError('The prompt is empty: --once needs at least one character.')

    const stopped = stopRequested()
    const ending = new AbortController()
    void stopped.then(() => {
      ending.abort()
    })
    const secrets = { KVX_TOKEN: newToken(), ...(apiKey !== undefined && { KVX_API_KEY: apiKey }) }
    const launch: Launch = (name, childArgs) =>
      new Child(name, [...childArgs, '--log-level', logLevel], secrets)
    const engine = given(flags, Object.keys(engineFlags))
    const pull = async () => {
      const { resolveModel } = await import('@kvx/llama')
      // Pulled here once, so that no two children pull the same file.
      await resolveModel(flags.string('model') ?? 'smollm2', {
        ...pullProgress(),
        signal: ending.signal,
      })
    }
    if (once !== undefined) {
      const answer = async () => {
        await pull()
        return answerOnce(launch, engine, question, flags.has('json'), ending.signal)
      }
      return await answer().catch((cause: unknown) => {
        if (ending.signal.aborted) return stopped.then(({ code }) => code)
        throw cause
      })
    }
    return serveUntilStopped(new Cluster(launch, engine, cluster), pull, stopped, drain)
  },
}

type Launch = (name: string, args: readonly string[]) => Child

/** Those of these flags that were given, as arguments for a child. */
function given(flags: Flags, names: readonly string[]): readonly string[] {
  return names
    .filter((name) => name !== 'log-level' && !(name in spellings) && flags.has(name))
    .map((name) => {
      const value = flags.string(name)
      return value === undefined ? `--${name}` : `--${name}=${value}`
    })
}

function workerArgs(
  mode: string,
  engine: readonly string[],
  name: string,
  port = '0',
  bootstrapPort = 0,
): string[] {
  return [
    ...['serve', '--disaggregation-mode', mode, '--instance', name, '--port', port],
    ...['--disaggregation-bootstrap-port', String(bootstrapPort), ...engine],
  ]
}

const routerArgs = (prefills: readonly Ready[], decodes: readonly Ready[]) => [
  'router',
  ...prefills.flatMap(({ url, bootstrapPort }) => ['--prefill', `${url},${String(bootstrapPort)}`]),
  ...decodes.flatMap(({ url }) => ['--decode', url]),
]

/** What all of them published; fails as soon as one cannot start. */
function allReady(some: readonly { ready: Promise<Ready> }[]): Promise<Ready[]> {
  return Promise.all(some.map(({ ready }) => ready))
}

interface ClusterOptions {
  readonly host: string
  readonly port: number
  /** How many workers of each kind. */
  readonly prefill: number
  readonly decode: number
  readonly routerFlags: readonly string[]
}

/** Workers and a router that are started again when they die. */
class Cluster {
  readonly #launch: Launch
  readonly #engine: readonly string[]
  readonly #options: ClusterOptions
  readonly #workers: Supervised[] = []
  #router: Supervised | undefined
  #stopping = false

  constructor(launch: Launch, engine: readonly string[], options: ClusterOptions) {
    this.#launch = launch
    this.#engine = engine
    this.#options = options
  }

  /** Resolves to the router's address; rejects as soon as one of them cannot start. */
  async start(): Promise<string> {
    this.#checkRunning()
    const prefills = this.#startWorkers('prefill', this.#options.prefill)
    const decodes = this.#startWorkers('decode', this.#options.decode)
    const ready = await Promise.all([allReady(prefills), allReady(decodes)])
    this.#checkRunning()
    const { host, port, routerFlags } = this.#options
    this.#router = new Supervised(
      'router',
      (last) =>
        this.#launch('router', [
          ...routerArgs(...ready),
          ...['--host', host, '--port', last ? new URL(last.url).port : String(port)],
          ...routerFlags,
        ]),
      tellPerson,
    )
    return (await this.#router.ready).url
  }

  /** First the router, so that nothing new reaches the workers; then they. */
  async drain(ms: number): Promise<void> {
    await this.#router?.drain(ms)
    await Promise.all(this.#workers.map((worker) => worker.drain(ms)))
  }

  async stop(): Promise<void> {
    this.#stopping = true
    const all = [...this.#workers, ...(this.#router ? [this.#router] : [])]
    await Promise.all(all.map((one) => one.stop()))
  }

  /** What is started after `stop` would outlive it. */
  #checkRunning(): void {
    if (this.#stopping) throw new KvxError('ERR_KVX_CLOSED', 'kvx up was asked to end.')
  }

  #startWorkers(mode: 'prefill' | 'decode', count: number): readonly Supervised[] {
    const workers = Array.from({ length: count }, (_, i) => {
      const name = `${mode}-${String(i + 1)}`
      const launch = (last: Ready | undefined) => {
        const port = last && new URL(last.url).port
        return this.#launch(name, workerArgs(mode, this.#engine, name, port, last?.bootstrapPort))
      }
      return new Supervised(name, launch, tellPerson)
    })
    this.#workers.push(...workers)
    return workers
  }
}

function tellPerson(text: string): void {
  process.stderr.write(`kvx: ${text}\n`)
}

/** @returns the exit code */
async function serveUntilStopped(
  cluster: Cluster,
  pull: () => Promise<void>,
  stopped: Promise<Stop>,
  drainMs: number,
): Promise<number> {
  try {
    const start = async () => {
      await pull()
      process.stderr.write('starting prefill and decode workers\n')
      return cluster.start()
    }
    const url = await Promise.race([start(), stopped.then(() => undefined)])
    if (url !== undefined) greet(url)
    const { code, graceful, hurried } = await stopped
    if (!graceful || url === undefined) return code
    return await Promise.race([cluster.drain(drainMs).then(() => code), hurried])
  } finally {
    await cluster.stop()
  }
}

function greet(url: string): void {
  process.stdout.write(
    `kvx ready at ${url}\n\n` +
      `  curl ${url}/v1/completions -H 'content-type: application/json' \\\n` +
      `    -d '{"prompt": "The capital of France is", "max_tokens": 32, "temperature": 0}'\n\n` +
      'Ctrl-C ends it.\n',
  )
}

async function answerOnce(
  launch: Launch,
  engine: readonly string[],
  question: Parameters<typeof complete>[1],
  json: boolean,
  signal: AbortSignal,
): Promise<number> {
  process.stderr.write('starting a prefill, a decode and a standalone worker\n')
  const children: Child[] = []
  const start = (name: string, childArgs: readonly string[]) => {
    signal.throwIfAborted()
    const child = launch(name, childArgs)
    children.push(child)
    return child
  }
  const interrupted = new Promise<never>((_, reject) => {
    signal.addEventListener('abort', () => {
      reject(new KvxError('ERR_KVX_ABORTED', 'kvx up was asked to end.'))
    })
  })
  interrupted.catch(() => undefined)
  try {
    const worker = (mode: string, name: string) => start(name, workerArgs(mode, engine, name))
    const pair = [worker('prefill', 'prefill-1'), worker('decode', 'decode-1')]
    const alone = worker('null', 'standalone')
    const router = async () => {
      const [prefill, decode] = await allReady(pair)
      if (prefill === undefined || decode === undefined) throw new RangeError('two were started')
      return (await start('router', [...routerArgs([prefill], [decode]), '--port', '0']).ready).url
    }
    const ready = Promise.all([router(), alone.ready])
    const [url, { url: aloneUrl }] = await Promise.race([ready, interrupted])
    return await compare(url, aloneUrl, question, json, signal)
  } finally {
    await Promise.all(children.map((child) => child.stop()))
  }
}

async function compare(
  url: string,
  aloneUrl: string,
  question: Parameters<typeof complete>[1],
  json: boolean,
  signal: AbortSignal,
): Promise<number> {
  process.stderr.write('answering through prefill and decode\n')
  const show = (text: string) => {
    if (!json) process.stdout.write(text)
  }
  const answer = await complete(url, question, show, signal)
  show('\n')
  process.stderr.write('answering in one process, to compare\n')
  const standalone = await complete(aloneUrl, question, () => undefined, signal)
  const { transfer } = answer
  if (transfer === undefined) {
    throw new KvxError('ERR_KVX_PROTOCOL', 'The decode worker did not say what was moved to it.')
  }
  const equal =
    answer.tokens.length === standalone.tokens.length &&
    answer.tokens.every((token, i) => token === standalone.tokens[i])
  const outcome: Outcome = { answer, standalone, transfer, equal }
  process.stdout.write(json ? machineReport(outcome) : personReport(outcome))
  return equal ? 0 : 1
}
