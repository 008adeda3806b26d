/** The log of a kvx process: JSON lines on stderr, so that stdout is the command's own. */
import { pino, type Logger } from 'pino'

export type LogLevel = 'trace' | 'debug' | 'info' | 'warn' | 'error' | 'silent'

/** @param fields stand on every line, such as the role of the process */
export function makeLog(level: LogLevel, fields: Readonly<Record<string, unknown>> = {}): Logger {
  // Written at once: the last lines before a crash are the ones that matter.
  return pino(
    { level, base: { pid: process.pid, ...fields } },
    pino.destination({ dest: 2, sync: true }),
  )
}
