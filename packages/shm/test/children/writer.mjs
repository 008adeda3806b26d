// Writes from a process of its own into memory of its parent, without end, until it is killed or told to stop.
import { allocate } from '@kvx/native'
import shm from '@kvx/shm'

const log = { debug() {}, info() {}, warn() {}, error() {} }
const { generation, peer, bytes, fill, user } = JSON.parse(process.argv[2])
const engine = await shm.open({}, { generation, log })
const memory = allocate(bytes)
memory.view(0, bytes).fill(fill)
await engine.register(memory)
// Once the addons are loaded, which another user may not be able to read.
if (user !== undefined) process.setuid(user)

try {
  const link = await engine.connect({
    generation: peer.generation,
    address: Buffer.from(peer.address, 'base64'),
    regions: peer.regions.map((region) => Buffer.from(region, 'base64')),
  })
  const plan = {
    lanes: Float64Array.of(0, 0, 0, 0, bytes, bytes, bytes, 1, bytes, bytes),
    groups: Int32Array.of(0, 0, 1),
    blocks: Int32Array.of(0, 1, 0, 1),
  }
  let stopping = false
  process.on('message', () => (stopping = true))
  for (let round = 0; !stopping; round++) {
    await link.write(plan).done
    if (round === 0) process.send({ event: 'writing' })
  }
  await engine.close()
  process.send({ event: 'closed' })
} catch (error) {
  process.send({ event: 'failed', code: error.code, message: error.message })
}
