/** The helper process of preflight.ts: takes one task, answers with a verdict, and is ended. */
import { silentLog } from '@kvx/core/backend'
import { binding, type Verdict } from './addon.ts'
import { openEngine } from './engine.ts'
import { needsAll, type Task } from './preflight.ts'

async function examine({ options, library }: Task): Promise<Verdict> {
  const verdict = binding().check(library.path, needsAll(options))
  if ('reason' in verdict) return verdict
  try {
    const context = { generation: '0'.repeat(32), log: silentLog }
    await openEngine({ options, library, requestBytes: verdict.requestBytes }, context)
  } catch (error) {
    return { reason: (error as Error).message }
  }
  return verdict
}

process.once('message', (task: Task) => {
  void examine(task).then((verdict) => process.send?.(verdict))
})
