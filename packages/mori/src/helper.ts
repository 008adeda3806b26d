/** The helper process of preflight.ts: takes one task, tells each step before it, and ends. */
import { randomBytes } from 'node:crypto'
import { isKvxError, silentLog } from '@kvx/contract'
import { allocate } from '@kvx/native'
import { onTask, tell } from '@kvx/vendor'
import { binding } from './addon.ts'
import { openEngine } from './engine.ts'
import { setupOf, type Message, type Step, type Task } from './preflight.ts'

const page = 4096

const say: (message: Message) => Promise<void> = tell

/** Waits for the message to be on its way: the step may be the last thing this process does. */
function begin(step: Step): Promise<void> {
  return say({ kind: 'step', step })
}

async function run(task: Task): Promise<void> {
  await begin('load')
  const addon = binding()
  const dependencies = addon.checkDependencies()
  await say({ kind: 'dependencies', list: dependencies })

  let rocmSmi = 'it was left out'
  if (!task.skipRocmSmi) {
    await begin('rocm-smi')
    rocmSmi = addon.checkRocmSmi()
    await say({ kind: 'rocm-smi', problem: rocmSmi })
  }

  await begin('open')
  const generation = randomBytes(16).toString('hex')
  const engine = await openEngine(setupOf(task, { dependencies, rocmSmi }), {
    generation,
    log: silentLog,
  })

  await begin('register')
  const memory = allocate(2 * page)
  const region = await engine.register(memory)

  await begin('connect')
  const link = await engine.connect({
    generation,
    address: engine.address,
    regions: [region.descriptor],
  })

  await begin('write')
  const sent = randomBytes(page)
  memory.view(0, page).set(sent)
  const { done } = link.write(
    {
      lanes: Float64Array.of(0, 0, 0, page, page, page, page, 1, 0, 0),
      groups: Int32Array.of(0, 0, 1),
      blocks: Int32Array.of(0, 1, 0, 1),
    },
    { deadlineMs: 20_000 },
  )
  await done
  if (!sent.equals(memory.view(page, page)))
    throw new Error('The bytes that arrived are not those that were sent.')

  await begin('close')
  await engine.close()
  await say({ kind: 'ok' })
}

onTask((task) =>
  run(task as Task)
    .catch((error: unknown) =>
      say({
        kind: 'failed',
        code: isKvxError(error) ? error.code : 'ERR_KVX_BACKEND_UNAVAILABLE',
        message: error instanceof Error ? error.message : String(error),
      }),
    )
    .finally(() => process.exit(0)),
)
