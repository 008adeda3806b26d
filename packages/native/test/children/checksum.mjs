/** A thread of Node that is ended in the middle of a checksum. */
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
void engine.checksum({ lanes: Float64Array.of(0, 0, bytes, bytes, 1, 0), pages: Int32Array.of(0) })
await setImmediate()
parentPort.postMessage('computing')
