// One prompt's KV cache crosses from a prefill manager to a decode manager, here in one process.
import { randomBytes } from 'node:crypto'
import { BootstrapServer, KVManager, promptDigest, silentLog } from '@kvx/core'
import { allocate } from '@kvx/native'

// What the cache is, the same on both sides: one layer with K and V of one head of 64 numbers in 16 bits.
const headBytes = 128
const tensors = ['k', 'v'].map((part) => ({
  ...{ layer: 0, part, dtype: 'f16', units: 1, unitBytes: headBytes },
}))
const components = [{ name: 'kv', addressed: 'tokens', tensors }]
const shape = { model: 'example', layers: 1, components }

// Where a rank keeps it: 8 pages of 16 tokens, K before V, each [token][head][dim].
const [pages, pageTokens] = [8, 16]
const pageBytes = pageTokens * headBytes
const place = {
  components: { kv: { pageTokens, pages } },
  tensors: ['k', 'v'].map((part, i) => ({
    ...{ component: 'kv', layer: 0, part, region: 0, base: i * pages * pageBytes, pageBytes },
    order: 'NHD',
  })),
}
const token = randomBytes(32).toString('hex') // one secret for all processes of a deployment
const common = { backend: 'shm', from: import.meta.url, shape, place, token }

// prefill: its bootstrap service, by which decode finds its ranks, and its manager
const bootstrap = await BootstrapServer.open({ host: '127.0.0.1', port: 0, token, log: silentLog })
const source = allocate(2 * pages * pageBytes)
const prefill = await KVManager.open({
  ...common,
  role: 'prefill',
  memory: [source],
  bootstrap: bootstrap.address,
})

// decode
const target = allocate(2 * pages * pageBytes)
const decode = await KVManager.open({ ...common, role: 'decode', memory: [target] })

// A request: both sides know its room (from the router) and its prompt.
const ids = Array.from({ length: 2 * pageTokens }, (_, i) => i)
const prompt = { tokens: ids.length, digest: promptDigest(ids) }
const receiver = decode.receive(7n, { ...prompt, from: bootstrap.address })
const sender = prefill.send(7n, prompt)
await receiver.reserve({ pages: [5, 2] })
await sender.reserved() // decode has given its pages

source.view(0, source.bytes).set(randomBytes(source.bytes)) // what the model computes
await sender.write({ tokens: [0, ids.length], pages: [0, 1] }) // once per chunk; goes on while the next is computed
const finished = sender.finish({ aux: { firstToken: 42 } })
const { aux, report } = await receiver.done // or a KvxError with code, phase, peer and cause
await finished
await Promise.all([sender.settled, receiver.settled]) // the pages may be used again

const page = (memory, number) => Buffer.from(memory.view(number * pageBytes, pageBytes))
const arrived = page(target, 5).equals(page(source, 0)) && page(target, 2).equals(page(source, 1))
const others = page(target, 0).equals(Buffer.alloc(pageBytes)) // a page that was not asked for
console.log(JSON.stringify({ arrived, others, firstToken: aux.firstToken, bytes: report.bytes }))

await decode.close()
await prefill.close()
await bootstrap.close()
source.free()
target.free()
