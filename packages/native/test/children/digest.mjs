/** A thread of Node that is ended in the middle of a digest. */
import { createRequire } from 'node:module'
import { setImmediate } from 'node:timers/promises'
import { parentPort, workerData } from 'node:worker_threads'
import { allocate, openNativeEngine } from '@kvx/native'
import { silentLog } from '@kvx/contract'

const binding = createRequire(import.meta.url)('../faulty/build/Release/faulty.node')
const engine = await openNativeEngine(binding, {
  backend: 'faulty',
  options: {},
  context: { generation: '0'.repeat(32), log: silentLog },
})
const { bytes } = workerData
await engine.register(allocate(bytes))
const [page, pages] = [4_096, bytes / 4_096]
void engine.digest({
  pageTokens: 1,
  tensors: Float64Array.of(0, 0, page, 1, 1, 0, page, page, page, page, page),
  keys: BigUint64Array.of(1n),
  runs: Int32Array.of(0, 0, pages, 0),
})
await setImmediate()
parentPort.postMessage('computing')
