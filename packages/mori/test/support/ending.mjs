// Ends with an engine that is open, in one of several ways: ending.mjs return | exit | worker | uncaught
import { randomBytes } from 'node:crypto'
import { Worker, isMainThread, parentPort } from 'node:worker_threads'
import mori from '@kvx/mori'
import { allocate } from '@kvx/native'

const log = { debug() {}, info() {}, warn() {}, error() {} }

async function writing() {
  const generation = randomBytes(16).toString('hex')
  const engine = await mori.open({ host: '127.0.0.1' }, { generation, log })
  const memory = allocate(2 << 22)
  const { descriptor } = await engine.register(memory)
  const link = await engine.connect({ generation, address: engine.address, regions: [descriptor] })
  const plan = {
    lanes: Float64Array.of(0, 0, 0, 1 << 22, 4096, 4096, 4096, 1, 0, 0),
    groups: Int32Array.of(0, 0, 1024),
    blocks: Int32Array.of(0, 1, 0, 1),
  }
  const transfers = Array.from({ length: 50 }, () => link.write(plan))
  await transfers[0].done
  return { engine, link, memory, transfers }
}

const way = process.argv[2]
if (!isMainThread) {
  globalThis.kept = await writing()
  setInterval(() => globalThis.kept, 1000) // alive until it is terminated
  parentPort.postMessage('writing')
} else if (way === 'worker') {
  const worker = new Worker(new URL(import.meta.url))
  await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject))
  await worker.terminate()
} else {
  globalThis.kept = await writing()
  if (way === 'exit') process.exit(0)
}
