/** The log of a kvx process, on stderr, so that stdout is the command's own: JSON lines, or on a terminal lines for people. */
import { pino, type Logger } from 'pino'
import pretty from 'pino-pretty'

export type LogLevel = 'trace' | 'debug' | 'info' | 'warn' | 'error' | 'silent'

/** @param fields stand on every line, such as the role of the process */
export function makeLog(level: LogLevel, fields: Readonly<Record<string, unknown>> = {}): Logger {
  // Written at once: the last lines before a crash are the ones that matter.
  return pino(
    // Not `base`, which pino would write beside a field of the same name: a line has each name once, and its own fields go first.
    { level, base: null, mixin: () => ({ pid: process.pid, ...fields }) },
    process.stderr.isTTY
      ? pretty({ destination: 2, sync: true, ignore: 'pid,hostname', translateTime: 'HH:MM:ss.l' })
      : pino.destination({ dest: 2, sync: true }),
  )
}
