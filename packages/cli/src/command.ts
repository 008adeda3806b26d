/** A command: citty's definition, from which --help is made, and what it does. */
import type { ArgsDef, CommandDef } from 'citty'

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
