// What would end, or keep alive, the process of the tests, in one of its own. argv: which of the two.
import { randomBytes } from 'node:crypto'
import { createRequire } from 'node:module'
import { allocate, openNativeEngine } from '@kvx/native'

const faulty = createRequire(import.meta.url)('../faulty/build/Release/faulty.node')
const log = { debug() {}, info() {}, warn() {}, error() {} }
const newGeneration = () => randomBytes(16).toString('hex')
const open = (options = {}) =>
  openNativeEngine(faulty, {
    backend: 'faulty',
    options,
    context: { generation: newGeneration(), log },
  })
const failed = (promise) =>
  promise.then(
    () => 'nothing',
    ({ name, code, message }) =>
      `${name} ${code}${message.includes('ulimit -u') ? ', names the limit' : ''}`,
  )

const memory = allocate(4096)

/** A call into the driver that never returns: `close` says so, and nothing keeps the process. */
async function stuck() {
  const engine = await open({ stuckIn: 'fenced' })
  await engine.register(memory)
  void engine.fence(newGeneration()).catch(() => undefined)
  while (faulty.world().blocked === 0) await new Promise((resolve) => setTimeout(resolve, 5))
  console.log(await failed(engine.close()))
}

async function noThreads() {
  const engine = await open()
  const region = await engine.register(memory)
  const { generation } = engine.identity
  const peer = { generation, address: engine.address, regions: [region.descriptor] }
  const link = await engine.connect(peer)
  // The limit does not hold for root.
  if (process.getuid() === 0) process.setuid(65534)
  faulty.forbidThreads()
  console.log(await failed(engine.connect(peer)))
  console.log(await failed(open()))
  const plan = {
    lanes: Float64Array.of(0, 0, 0, 2048, 2048, 2048, 2048, 1, 2048, 2048),
    groups: Int32Array.of(0, 0, 1),
    blocks: Int32Array.of(0, 1, 0, 1),
  }
  console.log(await link.write(plan).done)
  await engine.close()
  console.log(faulty.world())
}

await { stuck, noThreads }[process.argv[2]]()
