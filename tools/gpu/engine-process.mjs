// An engine of @kvx/shm in a process of its own, for sections/engine.mjs. argv: [{ place, bytes, fill }] as JSON, where a place
// is 'cpu' or the ordinal of a GPU. Messages: { do, … } → one answer each.
import { randomBytes } from 'node:crypto'
import { createRequire } from 'node:module'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { silentLog } from '@kvx/contract'
import { allocate } from '@kvx/native'
import shm from '@kvx/shm'

const generation = randomBytes(16).toString('hex')
const memories = []
let engine
let link

async function make({ place, bytes, fill = 0 }) {
  const content = Buffer.alloc(bytes, fill)
  if (place === 'cpu') {
    const memory = allocate(bytes)
    memory.view(0, bytes).set(content)
    return memory
  }
  const memory = await allocate(bytes, { kind: 'cuda', device: place })
  await memory.write(0, content)
  return memory
}

const read = async (memory) =>
  Buffer.from(memory.view ? memory.view(0, memory.bytes) : await memory.read(0, memory.bytes))

const whole = (bytes) => ({
  lanes: Float64Array.of(0, 0, 0, 0, bytes, bytes, bytes, 1, bytes, bytes),
  groups: Int32Array.of(0, 0, 1),
  blocks: Int32Array.of(0, 1, 0, 1),
})

const actions = {
  connect: async ({ peer }) => {
    link = await engine.connect(
      {
        generation: peer.generation,
        address: Buffer.from(peer.address, 'base64'),
        regions: peer.regions.map((region) => Buffer.from(region, 'base64')),
      },
      { timeoutMs: 60_000 },
    )
  },
  write: async ({ lanes, groups, blocks }) => {
    const plan = {
      lanes: Float64Array.from(lanes),
      groups: Int32Array.from(groups),
      blocks: Int32Array.from(blocks),
    }
    return (await link.write(plan).done).bytes
  },
  /** A write after a stream that fills the source `times` times, at the end with `byte`. Answers the milliseconds until it was done. */
  writeAfterStream: async ({ addon, device, bytes, byte, times }) => {
    const { busyStream } = createRequire(import.meta.url)(addon)
    const stream = busyStream(device, memories[0].address, bytes, byte, times)
    const began = performance.now()
    await link.write(whole(bytes), { after: { stream } }).done
    return performance.now() - began
  },
  /** `count` writes, sixteen at once; the last one is cancelled first, at once or some of them later. */
  aborts: async ({ count, bytes }) => {
    const ends = { done: 0, aborted: 0, other: [] }
    const atOnce = 16
    for (let i = 0; i < count; i += atOnce) {
      const length = Math.min(atOnce, count - i)
      const transfers = Array.from({ length }, () => link.write(whole(bytes)))
      const round = i / atOnce
      for (const transfer of transfers.reverse()) {
        transfer.cancel()
        if (round % 4 > 0) await nextTurn()
      }
      const ended = transfers.map(({ done }) =>
        done.then(
          () => ends.done++,
          ({ code, message }) =>
            code === 'ERR_KVX_ABORTED' ? ends.aborted++ : ends.other.push(message),
        ),
      )
      await Promise.all([...ended, ...transfers.map(({ settled }) => settled)])
    }
    return ends
  },
  /** Writes without end; answers after the first. */
  writeOn: async ({ bytes }) => {
    await link.write(whole(bytes)).done
    const on = async () => {
      for (;;) await link.write(whole(bytes)).done
    }
    for (let i = 0; i < 4; i++) on().catch(() => undefined)
  },
  fill: async ({ region, fill, seed }) => {
    const memory = memories[region]
    const content = Buffer.alloc(memory.bytes, fill ?? 0)
    if (seed !== undefined)
      for (let i = 0; i < content.length; i++) content[i] = (i * 31 + (i >> 9) * 7 + seed) % 251
    if (memory.view) memory.view(0, memory.bytes).set(content)
    else await memory.write(0, content)
  },
  bytes: async ({ region }) => (await read(memories[region])).toString('base64'),
  fence: ({ generation, ms }) =>
    engine.fence(generation, ms === undefined ? {} : { signal: AbortSignal.timeout(ms) }),
  closeLink: () => link.close(),
  close: () => engine.close(),
  fork: ({ addon }) => createRequire(import.meta.url)(addon).forkWriting(0n, 0),
}

const say = (answer) => process.send(answer, () => undefined)
process.once('disconnect', () => process.exit())
process.on('message', async (message) => {
  try {
    say({ answer: (await actions[message.do](message)) ?? null })
  } catch ({ code, message }) {
    say({ error: { code, message } })
  }
})

try {
  for (const given of JSON.parse(process.argv[2])) memories.push(await make(given))
  engine = await shm.open({}, { generation, log: silentLog })
  const regions = []
  for (const memory of memories) regions.push((await engine.register(memory)).descriptor)
  const text = (bytes) => Buffer.from(bytes).toString('base64')
  say({ answer: { generation, address: text(engine.address), regions: regions.map(text) } })
} catch ({ code, message }) {
  say({ error: { code, message } })
}
