/** Which engines take part in a measurement, and why others cannot. */
import type { Contender, Launch } from '@kvx/bench'
import { isKvxError } from '@kvx/contract'
import { locateBackend } from '../../backends.ts'
import { Child } from '../../children.ts'
import { newToken } from '../../token.ts'
import { UsageError } from '../../usage.ts'
import { examineBackends } from '../backend.ts'

/** Starts processes of one deployment, which say nothing. */
export function launcher(): Launch {
  const secrets = { KVX_TOKEN: newToken() }
  return (name, args) => new Child(name, args, secrets, { isQuiet: true })
}

/**
 * @param names of engines, and `standalone`
 * @throws UsageError for a name that is none; an engine that only cannot run here is told as such
 */
export async function contendersOf(flag: string, names: readonly string[]): Promise<Contender[]> {
  const twice = names.find((name, i) => names.indexOf(name) !== i)
  if (twice !== undefined) throw new UsageError(`--${flag} names ${twice} twice.`)
  return Promise.all(
    names.map(async (name): Promise<Contender> => {
      if (name === 'standalone') return { name }
      try {
        await locateBackend(name)
      } catch (cause) {
        throw isKvxError(cause) ? new UsageError(cause.message, { cause }) : cause
      }
      const [report] = await examineBackends([name])
      const { version, reason = '', available = false } = report ?? {}
      return { name, version, ...(!available && { unavailable: reason }) }
    }),
  )
}
