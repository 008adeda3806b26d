/** A command: citty's definition, from which --help is made, and what it does. */
import type { ArgsDef, CommandDef } from 'citty'
import type { Flags } from './flags.ts'

export interface Command extends CommandDef {
  readonly args: ArgsDef
  readonly subCommands?: Readonly<Record<string, Command>>
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
