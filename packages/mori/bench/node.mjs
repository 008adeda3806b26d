// One side of the benchmark in Node. Speaks like native.cc, over its standard input and output.
import { randomBytes } from 'node:crypto'
import { createInterface } from 'node:readline'
import mori from '@kvx/mori'
import { allocate } from '@kvx/native'

const log = { debug() {}, info() {}, warn() {}, error() {} }
const bytes = Number(process.argv[2])
const engine = await mori.open(
  { host: '127.0.0.1' },
  { generation: randomBytes(16).toString('hex'), log },
)
const memory = allocate(bytes)
for (let at = 0; at < bytes; at += 2 ** 30) memory.view(at, Math.min(2 ** 30, bytes - at)).fill(1)
const region = await engine.register(memory)
const hex = (data) => Buffer.from(data).toString('hex')
console.log(
  JSON.stringify({
    ...engine.identity,
    address: hex(engine.address),
    region: hex(region.descriptor),
  }),
)

let link

const commands = {
  async connect(peer) {
    const { generation, address, region: descriptor } = JSON.parse(peer)
    const unhex = (text) => Buffer.from(text, 'hex')
    link = await engine.connect({
      generation,
      address: unhex(address),
      regions: [unhex(descriptor)],
    })
    return 'ok'
  },
  async write(size, count, times) {
    const plan = spread(Number(size), Number(count))
    const seconds = []
    for (let i = 0; i < Number(times); i++) {
      const begin = performance.now()
      await link.write(plan).done
      seconds.push((performance.now() - begin) / 1000)
    }
    return seconds.join(' ')
  },
  // Seconds that each call of write() keeps the JavaScript thread.
  async submit(size, count, times) {
    const plan = spread(Number(size), Number(count))
    const seconds = []
    for (let i = 0; i < Number(times); i++) {
      const begin = performance.now()
      const { done } = link.write(plan)
      seconds.push((performance.now() - begin) / 1000)
      await done
    }
    return seconds.join(' ')
  },
}

/** Every second place, so that no two segments are neighbours. */
function spread(size, count) {
  return {
    lanes: Float64Array.of(0, 0, 0, 0, size, size, size, 1, 0, 0),
    groups: Int32Array.from(Array.from({ length: count }, (_, i) => [2 * i, 2 * i, 1]).flat()),
    blocks: Int32Array.of(0, count, 0, 1),
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const [command, ...words] = line.split(' ')
  console.log(await commands[command](...words))
}
await engine.close()
