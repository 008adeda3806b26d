// A host with a block manager of its own on both sides: blocks with reference counts, found again by the tokens that they hold. kvx
// sees page numbers only. Of a prompt whose beginning decode has already, only the rest crosses.
import { createHash, randomBytes } from 'node:crypto'
import { BootstrapServer, KVManager, promptDigest, silentLog } from '@kvx/core'
import { allocate } from '@kvx/native'

const [headBytes, blocks, blockTokens] = [128, 8, 16]
const blockBytes = blockTokens * headBytes
const tensors = ['k', 'v'].map((part) => ({
  ...{ layer: 0, part, dtype: 'f16', units: 1, unitBytes: headBytes },
}))
const components = [{ name: 'kv', addressed: 'tokens', tensors }]
const shape = { model: 'example', layers: 1, components }
const place = {
  components: { kv: { pageTokens: blockTokens, pages: blocks } },
  tensors: ['k', 'v'].map((part, i) => ({
    ...{ component: 'kv', layer: 0, part, region: 0, base: i * blocks * blockBytes },
    ...{ pageBytes: blockBytes, order: 'NHD' },
  })),
}

/** Blocks that several requests may share. One that nobody uses is kept for its tokens until it is needed. */
class BlockManager {
  #users = new Array(blocks).fill(0)
  #unused = Array.from({ length: blocks }, (_, block) => block) // longest unused first
  #blockOf = new Map()

  /** Names a full block by all tokens up to its end, since its numbers depend on them. */
  #nameOf(ids, index) {
    return createHash('sha256')
      .update(ids.slice(0, (index + 1) * blockTokens).join())
      .digest('hex')
  }

  #use(block) {
    if (this.#users[block] === 0) this.#unused.splice(this.#unused.indexOf(block), 1)
    this.#users[block] += 1
    return block
  }

  /** Blocks for a prompt, and how many of its tokens are in them already. Undefined when too few are unused. */
  allocate(ids) {
    const cached = []
    const mostCached = Math.floor((ids.length - 1) / blockTokens) // the last token is always computed
    while (cached.length < mostCached && this.#blockOf.has(this.#nameOf(ids, cached.length)))
      cached.push(this.#blockOf.get(this.#nameOf(ids, cached.length)))
    const missing = Math.ceil(ids.length / blockTokens) - cached.length
    if (missing > this.#unused.filter((block) => !cached.includes(block)).length) return undefined
    for (const block of cached) this.#use(block)
    const fresh = this.#unused.slice(0, missing)
    for (const [name, block] of this.#blockOf) if (fresh.includes(block)) this.#blockOf.delete(name)
    return {
      blocks: [...cached, ...fresh.map((block) => this.#use(block))],
      cachedTokens: cached.length * blockTokens,
    }
  }

  /** The full blocks hold these tokens from now on. Only after they have arrived, or were computed. */
  remember(ids, held) {
    for (let i = 0; (i + 1) * blockTokens <= ids.length; i += 1)
      this.#blockOf.set(this.#nameOf(ids, i), held[i])
  }

  /** For kvx: only once the request has settled, whatever became of it. Until then bytes may land in them. */
  release(held) {
    for (const block of held) {
      this.#users[block] -= 1
      if (this.#users[block] === 0) this.#unused.push(block)
    }
  }

  get unused() {
    return this.#unused.length
  }
}

const token = randomBytes(32).toString('hex')
const bootstrap = await BootstrapServer.open({ host: '127.0.0.1', port: 0, token, log: silentLog })
const common = { backend: 'shm', from: import.meta.url, shape, place, token }
const [source, target] = [allocate(2 * blocks * blockBytes), allocate(2 * blocks * blockBytes)]
const prefill = await KVManager.open({
  ...common,
  role: 'prefill',
  memory: [source],
  bootstrap: bootstrap.address,
})
const decode = await KVManager.open({ ...common, role: 'decode', memory: [target] })
const [ofPrefill, ofDecode] = [new BlockManager(), new BlockManager()]

/** K and V of a token, in the memory of either side. */
const rowsOf = (memory, held, token) =>
  place.tensors.map(({ base }) => {
    const at =
      held[Math.floor(token / blockTokens)] * blockBytes + (token % blockTokens) * headBytes
    return memory.view(base + at, headBytes)
  })

async function computeAndSend(room, ids) {
  const sender = prefill.send(room, { tokens: ids.length, digest: promptDigest(ids) })
  const { prefixTokens } = await sender.reserved()
  const own = ofPrefill.allocate(ids) // one that has too few would call sender.queued() and wait
  for (let token = own.cachedTokens; token < ids.length; token += 1)
    for (const row of rowsOf(source, own.blocks, token)) row.fill(ids[token])
  ofPrefill.remember(ids, own.blocks)
  try {
    await sender.write({
      tokens: [prefixTokens, ids.length],
      pages: own.blocks.slice(prefixTokens / blockTokens),
    })
    await sender.finish({ aux: { cachedTokens: own.cachedTokens } })
  } finally {
    await sender.settled
    ofPrefill.release(own.blocks)
  }
}

/** Tells prefill which tokens it has already, and blocks for the others. */
async function receive(room, ids) {
  const prompt = { tokens: ids.length, digest: promptDigest(ids) }
  const receiver = decode.receive(room, { ...prompt, from: bootstrap.address })
  const own = ofDecode.allocate(ids)
  await receiver.reserve({
    pages: own.blocks.slice(own.cachedTokens / blockTokens),
    prefixTokens: own.cachedTokens,
  })
  try {
    const { aux, report } = await receiver.done
    ofDecode.remember(ids, own.blocks)
    const right = ids.every((id, token) =>
      rowsOf(target, own.blocks, token).every((row) => row.every((byte) => byte === id)),
    )
    return { prompt: ids.length, moved: report.bytes, cachedByPrefill: aux.cachedTokens, right }
  } finally {
    await receiver.settled
    ofDecode.release(own.blocks)
  }
}

const beginning = Array.from({ length: 48 }, (_, i) => i) // what every prompt begins with: three blocks
const prompts = [100, 110, 120].map((first) => [...beginning, first, first + 1])
for (const [i, ids] of prompts.entries()) {
  const [found] = await Promise.all([receive(BigInt(i), ids), computeAndSend(BigInt(i), ids)])
  console.log(JSON.stringify({ ...found, unused: [ofPrefill.unused, ofDecode.unused] }))
}

await decode.close()
await prefill.close()
await bootstrap.close()
source.free()
target.free()
