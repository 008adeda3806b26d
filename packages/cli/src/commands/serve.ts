/** `kvx serve`: one worker. */
import type { ArgsDef } from 'citty'
import { isKvxError } from '@kvx/contract'
import { defaultDeadlines, defaultLimits, settings } from '@kvx/core/protocol'
import type { RunningWorker } from '@kvx/server'
import { findBackend } from '../backends.ts'
import {
  drainFlag,
  drainMs,
  httpFlags,
  httpOptions,
  logLevelFlag,
  logLevels,
  type Command,
} from '../command.ts'
import { Flags } from '../flags.ts'
import { hasParent, runUntilStopped, tellParent } from '../lifetime.ts'
import { pullProgress, readProgress } from '../progress.ts'
import { resolveToken } from '../token.ts'
import { UsageError } from '../usage.ts'

/** Flags of each command that opens a transfer engine. */
export const backendFlags = {
  'transfer-backend': {
    type: 'string',
    valueHint: 'NAME',
    description: 'What moves the cache: shm, mooncake, mori, a package or a path. Default: shm',
  },
  'disaggregation-transfer-backend': {
    type: 'string',
    valueHint: 'NAME',
    description: 'The same as --transfer-backend',
  },
  'transfer-backend-options': {
    type: 'string',
    valueHint: 'KEY=VALUE,…',
    description: 'Options of the transfer backend',
  },
} as const

/** Flags that `serve` and `up` share. */
export const engineFlags = {
  model: {
    type: 'string',
    valueHint: 'NAME|FILE.gguf',
    description: 'A model by name, pulled when it is missing, or a GGUF file. Default: smollm2',
  },
  'model-path': { type: 'string', valueHint: 'NAME|FILE.gguf', description: 'The same as --model' },
  ...backendFlags,
  'disaggregation-ib-device': {
    type: 'string',
    valueHint: 'NAME,…',
    description: 'RDMA devices for the transfer backend: its option devices',
  },
  'page-size': { type: 'string', valueHint: 'TOKENS', description: 'Tokens per page. Default: 16' },
  'context-length': {
    type: 'string',
    valueHint: 'TOKENS',
    description:
      'Longest prompt and answer together. Default: what the model was trained for, at most 2048',
  },
  'max-running-requests': {
    type: 'string',
    valueHint: 'N',
    description: 'Requests worked on at the same time; more wait. Default: 4',
  },
  'max-queued-requests': {
    type: 'string',
    valueHint: 'N',
    description: 'Requests that wait; one more is answered with 429 and Retry-After. Default: 256',
  },
  'kv-cache-dtype': {
    type: 'string',
    valueHint: 'f16|q8_0',
    description:
      'What K of the cache is kept as, the same at prefill and decode; V is f16. Default: f16',
  },
  'chunked-prefill-size': {
    type: 'string',
    valueHint: 'TOKENS',
    description: 'Prompt tokens computed at once, then sent. Default: 512',
  },
  'disable-radix-cache': {
    type: 'boolean',
    description: 'Keep no cache of the beginnings of prompts for prompts that begin alike',
  },
  'disaggregation-decode-enable-radix-cache': {
    type: 'boolean',
    description:
      'Has decode keep such a cache, which it does unless --disable-radix-cache is given',
  },
  'verify-kv': {
    type: 'boolean',
    description: 'Compare a digest of all that has landed with a digest of what was sent',
  },
  deadline: {
    type: 'string',
    valueHint: 'NAME=MS,…',
    description: `After how long a wait ends: ${Object.keys(defaultDeadlines).join(', ')}`,
  },
  limit: {
    type: 'string',
    valueHint: 'NAME=VALUE,…',
    description: `How much there may be: ${Object.keys(defaultLimits).join(', ')}`,
  },
  ...drainFlag,
  ...logLevelFlag,
} as const satisfies ArgsDef

const args = {
  ...engineFlags,
  ...httpFlags,
  'disaggregation-mode': {
    type: 'string',
    valueHint: 'null|prefill|decode',
    description: 'What this worker does. Default: null, both in one process',
  },
  host: {
    type: 'string',
    valueHint: 'HOST',
    description: 'Address to listen on. Default: 127.0.0.1',
  },
  port: { type: 'string', valueHint: 'PORT', description: 'Default: 30000. 0: any free port' },
  'disaggregation-bootstrap-port': {
    type: 'string',
    valueHint: 'PORT',
    description: 'Where prefill publishes itself to decode. Default: 8998. 0: any free port',
  },
  'prefill-hosts': {
    type: 'string',
    valueHint: 'HOST,…',
    description:
      'decode: prefill hosts that requests may name: names, addresses, CIDR. Default: loopback on loopback, else any',
  },
  instance: {
    type: 'string',
    valueHint: 'NAME',
    description: 'Its name in errors and logs. Default: its role, host and process id',
  },
  'token-file': {
    type: 'string',
    valueHint: 'FILE',
    description:
      'Holds the secret of the deployment; else KVX_TOKEN; else, on loopback, one file per user',
  },
} as const satisfies ArgsDef

export const serve: Command = {
  meta: { name: 'serve', description: 'Run one worker: prefill, decode, or both' },
  args,
  main: async (rawArgs) => {
    const flags = Flags.parse(rawArgs, args)
    const mode = flags.choice('disaggregation-mode', ['null', 'prefill', 'decode']) ?? 'null'
    const host = flags.string('host') ?? '127.0.0.1'
    const options = {
      mode,
      host,
      port: flags.integer('port', 0, 65535) ?? 30000,
      bootstrapPort: flags.integer('disaggregation-bootstrap-port', 0, 65535) ?? 8998,
      backendOptions: engineOptions(flags),
      pageSize: flags.integer('page-size', 1, 4096),
      contextLength: flags.integer('context-length', 2, 2 ** 31 - 1),
      maxRunningRequests: flags.integer('max-running-requests', 1, 256),
      maxQueuedRequests: flags.integer('max-queued-requests', 0, 65_536),
      kvCacheDtype: flags.choice('kv-cache-dtype', ['f16', 'q8_0']),
      chunkedPrefillSize: flags.integer('chunked-prefill-size', 2, 2 ** 31 - 1),
      prefixCache: prefixCache(flags),
      verifyKV: flags.has('verify-kv'),
      prefillHosts: flags.string('prefill-hosts')?.split(','),
      instance: flags.string('instance'),
      ...protocolSettings(flags),
      http: httpOptions(flags),
    } as const
    const drain = drainMs(flags)
    const logLevel = flags.choice('log-level', logLevels) ?? 'info'
    const token =
      mode === 'null'
        ? undefined
        : await resolveToken({
            file: flags.string('token-file'),
            variable: process.env.KVX_TOKEN,
            host,
            environment: process.env,
          })
    const start = async (signal: AbortSignal) => {
      // Before the model is fetched and loaded, which takes longer.
      const name = flags.string('transfer-backend') ?? 'shm'
      const backend = mode === 'null' ? undefined : await findBackend(name)
      // Loaded late: llama.cpp takes a while, and a misspelt flag or --help needs none of it.
      const [{ resolveModel }, { makeLog, startWorker }] = await Promise.all([
        import('@kvx/llama'),
        import('@kvx/server'),
      ])
      const { instance } = options
      const log = makeLog(logLevel, { role: mode, ...(instance !== undefined && { instance }) })
      const model = await resolveModel(flags.string('model') ?? 'smollm2', {
        ...pullProgress(),
        signal,
      })
      signal.throwIfAborted()
      return startWorker({
        ...options,
        backend,
        log,
        token,
        model: model.path,
        modelName: model.name,
        onModelRead: readProgress(),
      })
    }
    return runUntilStopped(
      start,
      (worker) => {
        announce(mode, worker)
      },
      drain,
    )
  },
}

/** @throws UsageError */
export function prefixCache(flags: Flags): boolean {
  const [off, on] = ['disable-radix-cache', 'disaggregation-decode-enable-radix-cache'] as const
  if (flags.has(off) && flags.has(on))
    throw new UsageError(`--${off} and --${on} exclude each other.`)
  return !flags.has(off)
}

function announce(mode: string, { url, bootstrapPort }: RunningWorker): void {
  if (hasParent()) {
    tellParent({ type: 'ready', url, bootstrapPort })
    return
  }
  const what = mode === 'null' ? 'standalone' : mode
  const bootstrap = mode === 'prefill' ? `, bootstrap port ${String(bootstrapPort)}` : ''
  process.stdout.write(`kvx ${what} worker ready at ${url}${bootstrap}\n`)
}

export function backendOptions(flags: Flags): Record<string, string | number | boolean> {
  return pairs('transfer-backend-options', flags)
}

/**
 * The same with the devices that SGLang's flag names.
 * @throws UsageError
 */
export function engineOptions(flags: Flags): Record<string, unknown> {
  const options = backendOptions(flags)
  const flag = 'disaggregation-ib-device'
  const devices = flags.string(flag)?.split(',')
  if (devices === undefined) return options
  const wrong = devices.find((name) => !/^[\w.-]+$/.test(name))
  if (wrong !== undefined) {
    throw new UsageError(
      `--${flag} takes names of devices, as ibv_devices lists them: '${wrong}' is none.`,
    )
  }
  if (Object.hasOwn(options, 'devices')) {
    throw new UsageError(`--${flag} and the option devices of the backend are the same: give one.`)
  }
  return { ...options, devices }
}

/**
 * What `--deadline` and `--limit` set.
 * @throws UsageError for a name that does not exist, or a value that is no positive number
 */
export function protocolSettings(flags: Flags) {
  const deadlines = pairs('deadline', flags) as Record<string, number>
  const limits = pairs('limit', flags) as Record<string, number>
  try {
    settings(defaultDeadlines, deadlines, 'deadline')
    settings(defaultLimits, limits, 'limit')
  } catch (cause) {
    throw isKvxError(cause) ? new UsageError(cause.message, { cause }) : cause
  }
  return { deadlines, limits }
}

/** `KEY=VALUE,…`; numbers, true and false become what they say. */
export function pairs(flag: string, flags: Flags): Record<string, string | number | boolean> {
  const found: Record<string, string | number | boolean> = {}
  for (const pair of flags.string(flag)?.split(',') ?? []) {
    const at = pair.indexOf('=')
    const key = pair.slice(0, Math.max(at, 0)).trim()
    if (key === '') throw new UsageError(`--${flag} takes KEY=VALUE,…: '${pair}' is none.`)
    if (Object.hasOwn(found, key)) throw new UsageError(`--${flag} gives ${key} twice.`)
    found[key] = scalar(pair.slice(at + 1).trim())
  }
  return found
}

function scalar(text: string): string | number | boolean {
  if (text === 'true' || text === 'false') return text === 'true'
  return /^-?\d+(\.\d+)?$/.test(text) ? Number(text) : text
}
