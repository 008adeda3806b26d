// Lives up to a stage and ends there: `stages.mjs STAGE ENDING`.
//   return   everything is left as it is; Node ends by itself, since nothing is pending
//   exit     process.exit(0)
//   worker   the stage is reached in a worker, which is then terminated
//   workers  the same, twenty times, four at once
import { randomBytes } from 'node:crypto'
import { Worker, isMainThread, parentPort, workerData } from 'node:worker_threads'

const stages = {
  async loaded() {
    const [native, { default: shm }] = await Promise.all([
      import('@kvx/native'),
      import('@kvx/shm'),
    ])
    await shm.probe() // loads the addon
    return { ...native, shm }
  },
  async allocated(it) {
    const memories = [it.allocate(1 << 24), it.allocate(1 << 24)]
    return { ...it, memories, views: memories.map((memory) => memory.view(0, 1 << 24).fill(1)) }
  },
  async opened(it) {
    const log = { debug() {}, info() {}, warn() {}, error() {} }
    const open = () =>
      it.shm.open({ copyThreads: 2 }, { generation: randomBytes(16).toString('hex'), log })
    return { ...it, engines: [await open(), await open()] }
  },
  async registered(it) {
    const regions = await Promise.all(
      it.engines.map((engine, i) => engine.register(it.memories[i])),
    )
    return { ...it, regions }
  },
  async connected(it) {
    const [writer, owner] = it.engines
    const link = await writer.connect({
      generation: owner.identity.generation,
      address: owner.address,
      regions: [it.regions[1].descriptor],
    })
    return { ...it, link }
  },
  async writing(it) {
    const pages = Array.from({ length: 1 << 14 }, (_, i) => [i, (1 << 14) - 1 - i, 1])
    const plan = {
      lanes: Float64Array.of(0, 0, 0, 0, 1024, 1024, 1024, 1, 1024, 1024),
      groups: Int32Array.from(pages.flat()),
      blocks: Int32Array.of(0, 1 << 14, 0, 1),
    }
    const transfers = Array.from({ length: 200 }, () => it.link.write(plan))
    await transfers[0].done
    return { ...it, transfers }
  },
  async closing(it) {
    void it.engines.map((engine) => engine.close())
    return it
  },
  async closed(it) {
    await Promise.all(it.engines.map((engine) => engine.close()))
    await Promise.all(it.transfers.map((transfer) => transfer.settled))
    for (const memory of it.memories) memory.free()
    return it
  },
}

async function reach(last) {
  let it = {}
  for (const [name, stage] of Object.entries(stages)) {
    it = await stage(it)
    if (name === last) return it
  }
  throw new Error(`There is no stage '${last}'.`)
}

async function inWorker(stage) {
  const worker = new Worker(new URL(import.meta.url), { workerData: { stage } })
  await new Promise((resolve, reject) => {
    worker.once('message', resolve)
    worker.once('error', reject)
  })
  await worker.terminate()
}

if (!isMainThread) {
  globalThis.kept = await reach(workerData.stage)
  setInterval(() => globalThis.kept, 1000) // alive until it is terminated
  parentPort.postMessage('reached')
} else {
  const [stage, ending] = process.argv.slice(2)
  if (ending === 'worker') await inWorker(stage)
  else if (ending === 'workers') {
    for (let i = 0; i < 5; i++) await Promise.all([0, 1, 2, 3].map(() => inWorker(stage)))
  } else globalThis.kept = await reach(stage)
  console.log(`reached ${stage}`)
  if (ending === 'exit') process.exit(0)
}
