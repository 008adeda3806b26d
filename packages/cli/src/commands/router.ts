/** `kvx router`: one address in front of workers. */
import type { ArgsDef } from 'citty'
import { cacheAwareDefaults, makeLog, policies, startRouter } from '@kvx/server/router'
import {
  drainFlag,
  drainMs,
  httpFlags,
  httpOptions,
  logLevelFlag,
  logLevels,
  workerTimeoutFlag,
  type Command,
} from '../command.ts'
import { Flags } from '../flags.ts'
import { hasParent, runUntilStopped, tellParent } from '../lifetime.ts'
import { UsageError } from '../usage.ts'

/** How a router chooses workers: of `router` and `up` alike. */
export const routingFlags = {
  policy: {
    type: 'string',
    valueHint: 'NAME',
    description: `How workers are chosen: ${policies.join(', ')}. Default: cache_aware`,
  },
  'prefill-policy': {
    type: 'string',
    valueHint: 'NAME',
    description: 'How prefill workers are chosen. Default: as --policy says',
  },
  'decode-policy': {
    type: 'string',
    valueHint: 'NAME',
    description: 'How decode workers are chosen. Default: as --policy says',
  },
  'cache-threshold': {
    type: 'string',
    valueHint: 'PART',
    description: `cache_aware: a worker that has had this part of a prompt is preferred for it. Default: ${String(cacheAwareDefaults.cacheThreshold)}`,
  },
  'balance-abs-threshold': {
    type: 'string',
    valueHint: 'N',
    description: `cache_aware: the load decides when the busiest worker has more than N requests more than the idlest, and … Default: ${String(cacheAwareDefaults.balanceAbsThreshold)}`,
  },
  'balance-rel-threshold': {
    type: 'string',
    valueHint: 'TIMES',
    description: `… more than TIMES as many. Default: ${String(cacheAwareDefaults.balanceRelThreshold)}`,
  },
  'max-local-prefill-length': {
    type: 'string',
    valueHint: 'TOKENS',
    description:
      'Decode computes prompts itself of which it lacks at most so many tokens. Default: 0, none',
  },
} as const satisfies ArgsDef

/** @throws UsageError */
export function routing(flags: Flags) {
  const policy = flags.choice('policy', policies)
  return {
    prefillPolicy: flags.choice('prefill-policy', policies) ?? policy,
    decodePolicy: flags.choice('decode-policy', policies) ?? policy,
    cacheThreshold: flags.number('cache-threshold', 0, 1) ?? cacheAwareDefaults.cacheThreshold,
    balanceAbsThreshold:
      flags.integer('balance-abs-threshold', 0, 65_536) ?? cacheAwareDefaults.balanceAbsThreshold,
    balanceRelThreshold:
      flags.number('balance-rel-threshold', 1, 1_000_000) ?? cacheAwareDefaults.balanceRelThreshold,
    maxLocalPrefillLength: flags.integer('max-local-prefill-length', 0, 2 ** 31 - 1) ?? 0,
  }
}

const args = {
  prefill: {
    type: 'string',
    valueHint: 'URL[,BOOTSTRAP_PORT]',
    description:
      'A prefill worker; repeatable. Without a port the worker is asked for it. URL PORT is taken too',
  },
  decode: { type: 'string', valueHint: 'URL', description: 'A decode worker; repeatable' },
  host: {
    type: 'string',
    valueHint: 'HOST',
    description: 'Address to listen on. Default: 127.0.0.1',
  },
  port: { type: 'string', valueHint: 'PORT', description: 'Default: 30000. 0: any free port' },
  'pd-disaggregation': {
    type: 'boolean',
    description: "Needed by SGLang's router; this one does nothing else",
  },
  ...routingFlags,
  ...workerTimeoutFlag,
  ...httpFlags,
  ...drainFlag,
  ...logLevelFlag,
} as const satisfies ArgsDef

export const router: Command = {
  meta: { name: 'router', description: 'Send each request to a prefill and a decode worker' },
  args,
  main: async (rawArgs) => {
    const flags = Flags.parse(rawArgs, args, ['prefill', 'decode'])
    const options = {
      prefill: prefillTargets(flags.list('prefill')),
      decode: flags.list('decode'),
      host: flags.string('host') ?? '127.0.0.1',
      port: flags.integer('port', 0, 65535) ?? 30000,
      ...routing(flags),
      workerSilentMs: (flags.number('worker-timeout', 0.1, 86_400) ?? 15) * 1_000,
      http: httpOptions(flags),
      log: makeLog(flags.choice('log-level', logLevels) ?? 'info', { role: 'router' }),
    }
    for (const role of ['prefill', 'decode'] as const) {
      if (options[role].length === 0) {
        throw new UsageError(
          `kvx router needs at least one ${role} worker: --${role} http://host:port.`,
        )
      }
    }
    const drain = drainMs(flags)
    return runUntilStopped(
      () => startRouter(options),
      ({ url }) => {
        if (hasParent()) tellParent({ type: 'ready', url })
        else process.stdout.write(`kvx router ready at ${url}\n`)
      },
      drain,
    )
  },
}

/**
 * Each is `URL` or `URL,BOOTSTRAP_PORT`, or two values as SGLang's router takes them: the port, or `none`, alone.
 * @throws UsageError
 */
export function prefillTargets(values: readonly string[]) {
  const joined: string[] = []
  for (const value of values) {
    const last = joined.at(-1)
    if (!/^(\d+|none)$/.test(value)) joined.push(value)
    else if (last === undefined || last.includes(',')) {
      throw new UsageError(`--prefill takes URL or URL,BOOTSTRAP_PORT, not '${value}'.`)
    } else joined[joined.length - 1] = `${last},${value}`
  }
  return joined.map((text) => prefillTarget(text.replace(/,none$/, '')))
}

/** `URL` or `URL,BOOTSTRAP_PORT`. */
export function prefillTarget(text: string): { url: string; bootstrapPort?: number } {
  const [url = '', port, ...rest] = text.split(',')
  if (port === undefined) return { url }
  const bootstrapPort = Number(port)
  if (!/^\d+$/.test(port) || bootstrapPort < 1 || bootstrapPort > 65535 || rest.length > 0) {
    throw new UsageError(`--prefill takes URL or URL,BOOTSTRAP_PORT, not '${text}'.`)
  }
  return { url, bootstrapPort }
}
