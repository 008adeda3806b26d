/** `kvx up`: prefill, decode and router on one machine; with --once one prompt, checked against a standalone worker. */
import type { ArgsDef } from 'citty'
import { KvxError } from '@kvx/core/backend'
import { Child, stopAll } from '../children.ts'
import { logLevels, type Command } from '../command.ts'
import { complete } from '../completion.ts'
import { Flags, spellings } from '../flags.ts'
import { stopRequested, type Ready } from '../lifetime.ts'
import { pullProgress } from '../progress.ts'
import { machineReport, personReport, type Outcome } from '../report.ts'
import { newToken } from '../token.ts'
import { UsageError } from '../usage.ts'
import { backendOptions, engineFlags } from './serve.ts'

const args = {
  ...engineFlags,
  host: {
    type: 'string',
    valueHint: 'HOST',
    description: 'Address of the router. Default: 127.0.0.1',
  },
  port: { type: 'string', valueHint: 'PORT', description: 'Port of the router. Default: 30000' },
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
const serveOnly = ['host', 'port']

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
    backendOptions(flags.string('transfer-backend-options'))
    const question = {
      prompt: once ?? '',
      maxTokens: flags.integer('max-tokens', 1, 2 ** 31 - 1) ?? 32,
      temperature: flags.number('temperature', 0, 2) ?? 0,
      seed: flags.integer('seed', 0, 2 ** 32 - 1) ?? 0,
    }
    const port = flags.integer('port', 0, 65535) ?? 30000
    if (once === '')
      throw new UsageError('The prompt is empty: --once needs at least one character.')

    const children: Child[] = []
    const stop = new AbortController()
    const stopped = stopRequested().then((code) => {
      stop.abort()
      return code
    })
    const token = newToken()
    const launch: Launch = (name, childArgs) => {
      const child = new Child(name, [...childArgs, '--log-level', logLevel], token)
      children.push(child)
      return child
    }
    try {
      const work = async () => {
        const { resolveModel } = await import('@kvx/llama')
        // Pulled here once, so that no two children pull the same file.
        await resolveModel(flags.string('model') ?? 'smollm2', {
          ...pullProgress(),
          signal: stop.signal,
        })
        const engine = passOn(flags)
        if (once !== undefined) {
          const outcome = await answerOnce(launch, engine, question, flags.has('json'), stop.signal)
          return outcome.equal ? 0 : 1
        }
        return serveUntilOneDies(launch, engine, flags.string('host') ?? '127.0.0.1', port)
      }
      return await Promise.race([stopped, work()])
    } finally {
      await stopAll(children)
    }
  },
}

type Launch = (name: string, args: readonly string[]) => Child

/** The flags of `serve` that were given, as arguments for a child. */
function passOn(flags: Flags): readonly string[] {
  return Object.keys(engineFlags)
    .filter((name) => name !== 'log-level' && !(name in spellings) && flags.has(name))
    .map((name) => {
      const value = flags.string(name)
      return value === undefined ? `--${name}` : `--${name}=${value}`
    })
}

const workerArgs = (mode: string, engine: readonly string[]) => [
  ...['serve', '--disaggregation-mode', mode, '--port', '0'],
  ...['--disaggregation-bootstrap-port', '0', ...engine],
]

function launchPair(launch: Launch, engine: readonly string[]) {
  const prefill = launch('prefill worker', workerArgs('prefill', engine))
  const decode = launch('decode worker', workerArgs('decode', engine))
  return { prefill, decode }
}

async function launchRouter(
  launch: Launch,
  { prefill, decode }: { prefill: Child; decode: Child },
  address: readonly string[],
): Promise<{ router: Child; url: string }> {
  const [from, to] = await allReady(prefill, decode)
  const router = launch('router', [
    ...['router', '--prefill', `${from.url},${String(from.bootstrapPort)}`],
    ...['--decode', to.url, ...address],
  ])
  const [{ url }] = await allReady(router)
  return { router, url }
}

/** What all of them published; fails as soon as one cannot start. */
function allReady<const C extends readonly Child[]>(
  ...children: C
): Promise<{ [K in keyof C]: Ready }> {
  return Promise.all(children.map((child) => child.ready)) as Promise<{ [K in keyof C]: Ready }>
}

async function serveUntilOneDies(
  launch: Launch,
  engine: readonly string[],
  host: string,
  port: number,
): Promise<never> {
  process.stderr.write('starting a prefill and a decode worker\n')
  const pair = launchPair(launch, engine)
  const { router, url } = await launchRouter(launch, pair, ['--host', host, '--port', String(port)])
  process.stdout.write(
    `kvx ready at ${url}\n\n` +
      `  curl ${url}/v1/completions -H 'content-type: application/json' \\\n` +
      `    -d '{"prompt": "The capital of France is", "max_tokens": 32, "temperature": 0}'\n\n` +
      'Ctrl-C ends it.\n',
  )
  return Promise.race(
    [pair.prefill, pair.decode, router].map(async (child) => {
      const how = await child.gone
      throw new KvxError(
        'ERR_KVX_INTERNAL',
        `The ${child.name} ended by itself (${how}), so all is ended.`,
      )
    }),
  )
}

async function answerOnce(
  launch: Launch,
  engine: readonly string[],
  question: Parameters<typeof complete>[1],
  json: boolean,
  signal: AbortSignal,
): Promise<Outcome> {
  process.stderr.write('starting a prefill, a decode and a standalone worker\n')
  const pair = launchPair(launch, engine)
  const alone = launch('standalone worker', workerArgs('null', engine))
  const [{ url }, [{ url: aloneUrl }]] = await Promise.all([
    launchRouter(launch, pair, ['--port', '0']),
    allReady(alone),
  ])
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
  return outcome
}
