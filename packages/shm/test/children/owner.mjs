// Owns memory in a process of its own and does what its parent says. Messages: { do, ... } → one answer each.
import { createHash } from 'node:crypto'
import { closeSync, openSync } from 'node:fs'
import { allocate } from '@kvx/native'
import shm from '@kvx/shm'

const log = { debug() {}, info() {}, warn() {}, error() {} }
const [generation, bytes] = [process.argv[2], Number(process.argv[3])]
const engine = await shm.open({}, { generation, log })
const memory = allocate(bytes)
const region = await engine.register(memory)

const spent = []
/** Opens files until there is no descriptor left. */
function exhaust() {
  try {
    for (;;) spent.push(openSync('/dev/null'))
  } catch (error) {
    return error.code
  }
}

const actions = {
  exhaust,
  relieve: () => {
    for (const descriptor of spent.splice(0)) closeSync(descriptor)
  },
  digest: () => createHash('sha256').update(memory.view(0, bytes)).digest('hex'),
  fence: ({ generation }) => engine.fence(generation),
  fences: async ({ generations }) => {
    for (const generation of generations) await engine.fence(generation)
  },
  deregister: () => region.deregister(),
  close: () => engine.close(),
}

process.on('message', async (message) => {
  try {
    process.send({ answer: (await actions[message.do](message)) ?? null })
  } catch (error) {
    process.send({ code: error.code, message: error.message })
  }
})
process.send({
  answer: {
    generation,
    address: Buffer.from(engine.address).toString('base64'),
    regions: [Buffer.from(region.descriptor).toString('base64')],
  },
})
