/** A command: citty's definition, from which --help is made, and what it does. */
import type { ArgsDef, CommandDef } from 'citty'
import type { HttpOptions } from '@kvx/server/router'
import type { Flags } from './flags.ts'
import { UsageError } from './usage.ts'

export interface Command extends CommandDef {
  readonly args: ArgsDef
  readonly subCommands?: Readonly<Record<string, Command>>
  /** Stands at the end of --help. */
  readonly examples?: string
  /**
   * Does it and resolves to the exit code.
   * @throws UsageError, KvxError
   */
  readonly main?: (rawArgs: readonly string[]) => Promise<number>
}

export const logLevels = ['trace', 'debug', 'info', 'warn', 'error', 'silent'] as const

export const logLevelFlag = {
  'log-level': {
    type: 'string',
    valueHint: 'LEVEL',
    description: `What is logged to stderr, as JSON lines: ${logLevels.join(', ')}. Default: info`,
  },
} as const satisfies ArgsDef

export const drainFlag = {
  'drain-timeout': {
    type: 'string',
    valueHint: 'SECONDS',
    description: 'After SIGTERM: how long running requests may take to end. Default: 30',
  },
} as const satisfies ArgsDef

/** Milliseconds. */
export const drainMs = (flags: Flags): number =>
  (flags.number('drain-timeout', 0, 86_400) ?? 30) * 1_000

export const workerTimeoutFlag = {
  'worker-timeout': {
    type: 'string',
    valueHint: 'SECONDS',
    description: 'A worker that answers nothing for so long is given up. Default: 15',
  },
} as const satisfies ArgsDef

/** Who may ask a server over HTTP, and how: of `serve`, `router` and `up` alike. */
export const httpFlags = {
  'api-key': {
    type: 'string',
    valueHint: 'KEY',
    description:
      'Requests must carry it: authorization: Bearer KEY. Other users see it here; KVX_API_KEY hides it',
  },
  'allowed-hosts': {
    type: 'string',
    valueHint: 'NAME,…',
    description:
      'Names by which the server is reached. Default: on loopback only those of loopback, else any',
  },
  'allowed-origins': {
    type: 'string',
    valueHint: 'ORIGIN,…',
    description:
      'Origins whose web pages may use the server, such as https://chat.example; * is all',
  },
  'keep-alive-timeout': {
    type: 'string',
    valueHint: 'SECONDS',
    description: 'How long a connection may wait for its next request. Default: 95',
  },
} as const satisfies ArgsDef

/** @throws UsageError */
export function httpOptions(flags: Flags, environment = process.env): HttpOptions {
  const seconds = flags.number('keep-alive-timeout', 1, 86_400)
  return {
    apiKey: apiKey(flags, environment),
    allowedHosts: names(flags, 'allowed-hosts', /^[^\s/:@]+$|^\[?[\da-f:.]+\]?$/i, 'host name'),
    allowedOrigins: names(
      flags,
      'allowed-origins',
      /^\*$|^[a-z][\w+.-]*:\/\/[^\s/]+\/?$/i,
      'origin, such as https://chat.example',
    ),
    ...(seconds !== undefined && { keepAliveMs: seconds * 1_000 }),
  }
}

function apiKey(flags: Flags, environment: NodeJS.ProcessEnv): string | undefined {
  const given = flags.string('api-key')
  const [key, where] =
    given === undefined ? [environment.KVX_API_KEY, 'KVX_API_KEY'] : [given, '--api-key']
  // A header cannot carry anything else. The key itself is nobody's to read.
  if (key === undefined || /^[\x21-\x7e]+$/.test(key)) return key
  throw new UsageError(
    key === ''
      ? `${where} is set but empty.`
      : `${where} must be letters, digits and signs of ASCII, without spaces.`,
  )
}

function names(flags: Flags, flag: string, pattern: RegExp, what: string): readonly string[] {
  const given =
    flags
      .string(flag)
      ?.split(',')
      .map((name) => name.trim()) ?? []
  const wrong = given.find((name) => !pattern.test(name))
  if (wrong !== undefined) throw new UsageError(`--${flag}: '${wrong}' is no ${what}.`)
  return given
}
