// Owns the memory that the benchmark writes into, in a process of its own: `owner.mjs BYTES`.
import { randomBytes } from 'node:crypto'
import { fstatSync } from 'node:fs'
import { silentLog } from '@kvx/contract'
import { allocate } from '@kvx/native'
import shm from '@kvx/shm'

const bytes = Number(process.argv[2])
const generation = randomBytes(16).toString('hex')
const engine = await shm.open({}, { generation, log: silentLog })
const memory = allocate(bytes)
const region = await engine.register(memory)
memory.view(0, bytes).fill(1)
process.send({
  generation,
  address: Buffer.from(engine.address).toString('base64'),
  descriptor: Buffer.from(region.descriptor).toString('base64'),
  inode: fstatSync(memory.fd).ino,
})
process.on('message', ({ at }) => process.send({ byte: memory.view(at, 1)[0] }))
