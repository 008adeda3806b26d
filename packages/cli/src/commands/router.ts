/** `kvx router`: one address in front of workers. */
import type { ArgsDef } from 'citty'
import { makeLog, startRouter } from '@kvx/server/router'
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

const args = {
  prefill: {
    type: 'string',
    valueHint: 'URL[,BOOTSTRAP_PORT]',
    description: 'A prefill worker; repeatable. Without a port the worker is asked for it',
  },
  decode: { type: 'string', valueHint: 'URL', description: 'A decode worker; repeatable' },
  host: {
    type: 'string',
    valueHint: 'HOST',
    description: 'Address to listen on. Default: 127.0.0.1',
  },
  port: { type: 'string', valueHint: 'PORT', description: 'Default: 30000. 0: any free port' },
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
      prefill: flags.list('prefill').map(prefillTarget),
      decode: flags.list('decode'),
      host: flags.string('host') ?? '127.0.0.1',
      port: flags.integer('port', 0, 65535) ?? 30000,
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
