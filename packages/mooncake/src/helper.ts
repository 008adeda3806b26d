/** The helper process of preflight.ts: takes one task, answers with a verdict, and is ended. */
import { silentLog } from '@kvx/contract'
import { onTask, tell } from '@kvx/vendor'
import { binding, type Verdict } from './addon.ts'
import { openEngine } from './engine.ts'
import { needsAll, type Task } from './preflight.ts'

async function examine({ options, library }: Task): Promise<Verdict> {
  const verdict = binding().check(library.path, needsAll(options))
  if ('reason' in verdict) return verdict
  try {
    const generation = '0'.repeat(32)
    const setup = { options, library, requestBytes: verdict.requestBytes }
    const engine = await openEngine(setup, { generation, log: silentLog })
    const self = { generation, address: engine.address, regions: [] }
    await engine.connect(self, { timeoutMs: 30_000 }).catch((error: unknown) => {
      const why = (error as Error).message
      throw new Error(
        `This machine does not reach itself by the hostname '${options.hostname}': ${why}`,
      )
    })
    await engine.close() // takes its entries from a metadata server
  } catch (error) {
    return { reason: (error as Error).message }
  }
  return verdict
}

onTask(async (task) => tell(await examine(task as Task)))
