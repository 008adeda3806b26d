// A process with an engine and some memory, which does what its parent says: { do, ... } → { answer } or
// { code, message }. Starts with { options, regions: bytes each, fill }.
import { createHash, randomBytes } from 'node:crypto'
import mori from '@kvx/mori'
import { allocate } from '@kvx/native'

const { options, regions: sizes } = JSON.parse(process.argv[2])
const warnings = []
const log = { debug() {}, info() {}, warn: (_, message) => warnings.push(message), error() {} }
const memories = sizes.map((bytes) => allocate(bytes))
let engine
let regions = []

const base64 = (bytes) => Buffer.from(bytes).toString('base64')

async function open() {
  const generation = randomBytes(16).toString('hex')
  engine = await mori.open(options, { generation, log })
  regions = []
  for (const memory of memories) regions.push(await engine.register(memory))
  return {
    generation,
    address: base64(engine.address),
    regions: regions.map(({ descriptor }) => base64(descriptor)),
  }
}

const view = ({ region = 0, offset = 0, bytes }) =>
  memories[region].view(offset, bytes ?? memories[region].bytes - offset)

const actions = {
  open,
  close: () => engine.close(),
  digests: () =>
    memories.map((_, region) => createHash('sha256').update(view({ region })).digest('hex')),
  fill: (place) => void view(place).fill(place.value),
  read: (place) => base64(view(place)),
  deregister: ({ region }) => regions[region].deregister(),
  warnings: () => warnings,
}

process.on('message', async (message) => {
  try {
    process.send({ answer: (await actions[message.do](message)) ?? null })
  } catch (error) {
    process.send({ code: error.code, message: error.message })
  }
})
// Node's loop is kept alive by the channel alone; MORI's threads spin, so leave when the parent is gone.
process.on('disconnect', () => process.exit(0))
process.send({ answer: null })
