// The target of the benchmark: memory, an engine, and nothing to do.
import { randomBytes } from 'node:crypto'
import { silentLog } from '@kvx/contract'
import mooncake from '@kvx/mooncake'
import { allocate } from '@kvx/native'

const bytes = Number(process.argv[2])
const engine = await mooncake.open(
  { hostname: '127.0.0.1' },
  { generation: randomBytes(16).toString('hex'), log: silentLog },
)
const memory = allocate(bytes)
memory.view(0, bytes).fill(1)
const region = await engine.register(memory)
process.send({
  generation: engine.identity.generation,
  address: engine.address,
  regions: [region.descriptor],
})
process.on('disconnect', () => process.exit())
