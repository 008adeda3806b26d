// A decode process: asks for one request after another as its parent says, { room, pages } → { answer } or { code }. Starts
// with { host, pageBytes, deadlines, instance }.
import { setImmediate } from 'node:timers/promises'
import { KVManager, promptDigest } from '@kvx/core'
import { allocate } from '@kvx/native'
import { cacheOf, memoryBytesOf, prompt, token } from './requests.mjs'

const { host, pageBytes, deadlines, instance } = JSON.parse(process.argv[2])
const memory = allocate(memoryBytesOf(pageBytes))
const manager = await KVManager.open({
  role: 'decode',
  backend: 'mori',
  backendOptions: { host },
  from: import.meta.url,
  ...cacheOf(pageBytes),
  memory: [memory],
  token,
  deadlines,
  ...(instance && { instance }),
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
  // Bytes land from the front: the first is there while the others are under way.
  async firstByte() {
    while (memory.view(0, 1)[0] === 0) await setImmediate()
  },
  // The value of every byte, or -1 where they differ.
  filling() {
    const { buffer, byteOffset, length } = memory.view(0, memory.bytes)
    const bytes = Buffer.from(buffer, byteOffset, length)
    return bytes.subarray(1).equals(bytes.subarray(0, -1)) ? bytes[0] : -1
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
