import { runHelper } from '@kvx/vendor'
import { binding, type Verdict } from './addon.ts'
import type { Library } from './library.ts'
import { peerToPeer, type CheckedOptions } from './options.ts'

/**
 * A missing symbol is called, a variable of Mooncake's own does not parse, a library is something else: each ends the
 * process, so a helper process tries the library first.
 */

export interface Task {
  readonly options: CheckedOptions
  readonly library: Library
}

const deadlineMs = 60_000

/** Lets a helper process load the library, send bytes with it and open an engine. Never rejects, ends by a deadline. */
export async function preflight(task: Task): Promise<Verdict> {
  try {
    binding()
  } catch (error) {
    return { reason: (error as Error).message }
  }
  let verdict: Verdict | undefined
  const { how, printed } = await runHelper<Verdict>(new URL('./helper.js', import.meta.url), task, {
    deadlineMs,
    onMessage: (message, end) => {
      verdict = message
      end() // what it made is not worth being taken down
    },
  })
  const reason = `A helper process that tried the library ${how}; this process was spared. ${printed}`
  return verdict ?? { reason: reason.trimEnd() }
}

/** Whether system libraries that TCP alone can do without are needed. */
export function needsAll({ protocol, metadataServer }: CheckedOptions): boolean {
  return protocol !== 'tcp' || metadataServer !== peerToPeer
}
