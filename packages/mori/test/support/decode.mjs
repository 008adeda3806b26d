// A decode process: asks for one request after another as its parent says, { room, pages } → { answer } or { code }.
import { KVManager, promptDigest } from '@kvx/core'
import { allocate } from '@kvx/native'
import { cache, deadlines, memoryBytes, prompt, token } from './requests.mjs'

const memory = allocate(memoryBytes)
const manager = await KVManager.open({
  role: 'decode',
  backend: 'mori',
  backendOptions: { host: '127.0.0.1' },
  from: import.meta.url,
  ...cache,
  memory: [memory],
  token,
  deadlines: deadlines.decode,
})
const requests = new Map()

const actions = {
  async reserve({ room, pages, from }) {
    const tokens = prompt.length
    const receiver = manager.receive(BigInt(room), { from, tokens, digest: promptDigest(prompt) })
    receiver.done.catch(() => undefined)
    requests.set(room, receiver)
    await receiver.reserve({ pages: Int32Array.from(pages) })
  },
  done: async ({ room }) => void (await requests.get(room).done),
  settled: async ({ room }) => void (await requests.get(room).settled),
  fill: ({ value }) => void memory.view(0, memory.bytes).fill(value),
  // The value of every byte, or -1 where they differ.
  filling() {
    const bytes = memory.view(0, memory.bytes)
    return bytes.every((byte) => byte === bytes[0]) ? bytes[0] : -1
  },
}

process.on('message', async (message) => {
  try {
    process.send({ answer: (await actions[message.do](message)) ?? null })
  } catch (error) {
    process.send({ code: error.code ?? 'unknown', message: error.message })
  }
})
process.on('disconnect', () => process.exit(0))
process.send({ answer: null })
