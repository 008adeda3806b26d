// An engine with memory of both kinds in a process of its own. argv: [{ kind, device, bytes, fill, as }] as JSON, `as`
// being how memory of a GPU is registered. Messages: { do, ... } → one answer each.
import { createHash, randomBytes } from 'node:crypto'
import { closeSync, openSync, readFileSync, readSync } from 'node:fs'
import { createRequire } from 'node:module'
import { allocate } from '@kvx/native'
import shm from '@kvx/shm'

const log = { debug() {}, info() {}, warn() {}, error() {} }
const generation = randomBytes(16).toString('hex')

function peek(address, bytes) {
  const memory = openSync('/proc/self/mem', 'r')
  const found = Buffer.alloc(bytes)
  readSync(memory, found, 0, bytes, address)
  closeSync(memory)
  return found
}

async function make({ kind, device = 0, bytes, fill = 0 }) {
  if (kind === 'cuda') {
    const memory = await allocate(bytes, { kind, device })
    await memory.write(0, new Uint8Array(bytes).fill(fill))
    return memory
  }
  const memory = allocate(bytes)
  memory.view(0, bytes).fill(fill)
  return memory
}

const whole = (region, to, bytes) => ({
  lanes: Float64Array.of(region, to, 0, 0, bytes, bytes, bytes, 1, bytes, bytes),
  groups: Int32Array.of(0, 0, 1),
  blocks: Int32Array.of(0, 1, 0, 1),
})

let engine
let link
const memories = []
const regions = []
let writing

const actions = {
  connect: async ({ peer }) => {
    link = await engine.connect({
      generation: peer.generation,
      address: Buffer.from(peer.address, 'base64'),
      regions: peer.regions.map((region) => Buffer.from(region, 'base64')),
    })
  },
  /** One write of a whole region, and how both of its promises end. */
  write: async ({ region = 0, to = 0, bytes, deadlineMs = 30_000 }) => {
    const { done, settled } = link.write(whole(region, to, bytes), { deadlineMs })
    await done
    await settled
  },
  /** Writes without end, answers after the first, and goes on. */
  writeOn: async ({ region = 0, to = 0, bytes }) => {
    const plan = whole(region, to, bytes)
    await link.write(plan).done
    writing = (async () => {
      for (;;) await link.write(plan).done
    })()
    writing.catch(() => undefined)
  },
  bytes: ({ region, from = 0, count }) =>
    [...peek(memories[region].address + BigInt(from), count)].join(),
  digest: ({ region }) =>
    createHash('sha256')
      .update(peek(memories[region].address, memories[region].bytes))
      .digest('hex'),
  fill: ({ region, fill }) =>
    memories[region].write(0, new Uint8Array(memories[region].bytes).fill(fill)),
  fence: ({ generation, signal }) =>
    engine.fence(generation, signal === undefined ? {} : { signal: AbortSignal.timeout(signal) }),
  closeLink: () => link.close(),
  close: () => engine.close(),
  faults: ({ text }) => {
    process.env.KVX_FAKE_CUDA_FAULTS = text
  },
  /** A child, forked and not exec'd, that writes to where the peer's GPU memory is mapped here. Answers its process id. */
  fork: ({ bytes }) => {
    const { forkWriting } = createRequire(import.meta.url)('../fork/build/Release/fork.node')
    const own = new Set(memories.map(({ address }) => address))
    for (const line of readFileSync('/proc/self/maps', 'utf8').split('\n')) {
      const [range, , , , , name = ''] = line.split(/\s+/)
      if (!name.includes('fake-gpu')) continue
      const address = BigInt(`0x${range.split('-')[0]}`)
      if (!own.has(address)) return forkWriting(address, bytes)
    }
    throw new Error('No memory of the peer is mapped here.')
  },
}

process.on('message', async (message) => {
  try {
    process.send({ answer: (await actions[message.do](message)) ?? null })
  } catch ({ code, message }) {
    process.send({ code: String(code), message })
  }
})

try {
  for (const memory of JSON.parse(process.argv[2])) memories.push(await make(memory))
  engine = await shm.open({}, { generation, log })
  for (const memory of memories) regions.push(await engine.register(memory))
  process.send({
    answer: {
      generation,
      address: Buffer.from(engine.address).toString('base64'),
      regions: regions.map(({ descriptor }) => Buffer.from(descriptor).toString('base64')),
    },
  })
} catch ({ code, message }) {
  process.send({ code: String(code), message })
}
