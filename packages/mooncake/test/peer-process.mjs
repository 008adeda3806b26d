// The other process of a test: owns memory and an engine, and does what it is told over IPC.
import { createHash, randomFillSync } from 'node:crypto'
import { silentLog } from '@kvx/contract'
import mooncake from '@kvx/mooncake'
import { allocate } from '@kvx/native'

let memory
let engine

const bytes = () => memory.view(0, memory.bytes)

const commands = {
  async open({ options, generation, size }) {
    memory ??= allocate(size)
    engine = await mooncake.open(options, { generation, log: silentLog })
    const region = await engine.register(memory)
    return {
      generation,
      address: Buffer.from(engine.address).toString('base64'),
      regions: [Buffer.from(region.descriptor).toString('base64')],
    }
  },
  fill: ({ value }) => void bytes().fill(value),
  randomize: () => void randomFillSync(bytes()),
  bytes: () => Buffer.from(bytes()),
  async write({ peer, plan }) {
    const link = await engine.connect({
      ...peer,
      regions: peer.regions.map((region) => Buffer.from(region)),
    })
    await link.write(plan).done
  },
  digest: () => createHash('sha256').update(bytes()).digest('hex'),
  read: ({ offset, length }) => Buffer.from(memory.view(offset, length)).toString('base64'),
  /** How many bytes are not `value`. */
  others: ({ value }) => bytes().reduce((count, byte) => count + (byte === value ? 0 : 1), 0),
  async close() {
    await engine.close()
  },
  /** Closing is the fence: from the moment it resolves the memory is ours, and stays as we write it. */
  async fenceAndFill({ value }) {
    await engine.close()
    bytes().fill(value)
  },
}

process.on('message', async ({ number, name, parameters }) => {
  try {
    process.send({ number, result: await commands[name](parameters) })
  } catch (error) {
    process.send({ number, error: { code: error.code, message: error.message } })
  }
})
process.on('disconnect', () => process.exit())
