// Two schedulers that never wait: each turn of their loops asks every request for its state with `poll()`, as SGLang's do, and moves
// it from queue to queue. Both sides have two tensor-parallel ranks; the least state over the ranks is that of the request.
import { randomBytes } from 'node:crypto'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { BootstrapServer, KVManager, KVPoll, PagePool, promptDigest, silentLog } from '@kvx/core'
import { allocate } from '@kvx/native'

// A toy model: K and V of one layer, two heads of 64 numbers in 16 bits, one head on each rank.
const [tpSize, headBytes, pages, pageTokens, chunkTokens] = [2, 128, 8, 16, 32]
const pageBytes = pageTokens * headBytes
const tensors = ['k', 'v'].map((part) => ({
  ...{ layer: 0, part, dtype: 'f16', units: tpSize, unitBytes: headBytes },
}))
const components = [{ name: 'kv', addressed: 'tokens', tensors }]
const shape = { model: 'example', layers: 1, components }
const place = {
  components: { kv: { pageTokens, pages } },
  tensors: ['k', 'v'].map((part, i) => ({
    ...{ component: 'kv', layer: 0, part, region: 0, base: i * pages * pageBytes, pageBytes },
    order: 'NHD',
  })),
}

/** Where K and V of a token are, in memory whose prompt is held by these pages. */
function* rowsOf(memory, held, token) {
  const at = held[Math.floor(token / pageTokens)] * pageBytes + (token % pageTokens) * headBytes
  for (const { base } of place.tensors) yield memory.view(base + at, headBytes)
}

/** All ranks of one side, here in one process. They use the same page numbers, so one pool serves all. */
async function openSide(role, options) {
  const memories = Array.from({ length: tpSize }, () => allocate(2 * pages * pageBytes))
  const managers = await Promise.all(
    memories.map((memory, tp) =>
      KVManager.open({
        ...{ role, shape, place, memory: [memory], rank: { tp, tpSize }, instance: role },
        ...{ backend: 'shm', from: import.meta.url, ...options },
      }),
    ),
  )
  return { memories, managers, pool: new PagePool(pages) }
}

const least = ({ legs }) => Math.min(...legs.map((leg) => leg.poll()))
const hasEnded = (request) => [KVPoll.Success, KVPoll.Failed].includes(least(request))
const pagesFor = ({ ids }) => Math.ceil(ids.length / pageTokens)

/** Takes those out of a queue that `isReady`. */
function taken(queue, isReady) {
  const ready = queue.filter(isReady)
  for (const one of ready) queue.splice(queue.indexOf(one), 1)
  return ready
}

/** However a request ends, its pages are for others only when no rank reads or writes them any more. */
function giveBack({ legs, lease }) {
  void Promise.all(legs.map((leg) => leg.settled)).then(() => lease?.release())
}

function prefillScheduler({ managers, memories, pool }) {
  const [bootstrapping, waiting, inflight] = [[], [], []]

  /** One chunk. It is sent while the next turn goes on: a write that fails is what `poll` tells. */
  function forward(request) {
    const { ids, legs, lease, done } = request
    const end = Math.min(done + chunkTokens, ids.length)
    const held = [...lease.pages]
    for (const [tp, leg] of legs.entries()) {
      for (let token = done; token < end; token += 1)
        for (const row of rowsOf(memories[tp], held, token)) row.fill(ids[token] + tp)
      const part = held.slice(Math.floor(done / pageTokens), Math.ceil(end / pageTokens))
      leg.write({ tokens: [done, end], pages: part }).catch(() => undefined)
      if (end === ids.length) leg.finish({ aux: { firstToken: ids[0] } }).catch(() => undefined)
    }
    request.done = end
  }

  return {
    add({ room, ids }) {
      const prompt = { tokens: ids.length, digest: promptDigest(ids) }
      const legs = managers.map((manager) => manager.send(room, prompt))
      bootstrapping.push({ ids, legs, done: 0 })
    },
    /** Whether anything is left to do. */
    step() {
      waiting.push(...taken(bootstrapping, (one) => least(one) !== KVPoll.Bootstrapping))
      inflight.push(...taken(waiting, hasEnded)) // aborted before its turn
      const [request] = waiting // the batch of this turn
      if (request !== undefined) {
        request.lease ??= pool.tryAllocate(pagesFor(request))
        if (request.lease !== undefined) forward(request)
        if (request.done === request.ids.length) inflight.push(waiting.shift())
      }
      for (const one of taken(inflight, hasEnded)) giveBack(one)
      return bootstrapping.length + waiting.length + inflight.length > 0
    },
  }
}

function decodeScheduler({ managers, memories, pool }, from, answer) {
  const [preallocating, transferring] = [[], []]

  /** Whether every rank has the rows of this prompt in its pages: what the first step of decode reads. */
  const isRight = ({ ids, lease }) =>
    memories.every((memory, tp) =>
      ids.every((id, token) =>
        [...rowsOf(memory, lease.pages, token)].every((row) => row.every((b) => b === id + tp)),
      ),
    )

  return {
    add({ room, ids, cancelled }) {
      const prompt = { tokens: ids.length, digest: promptDigest(ids), from }
      const legs = managers.map((manager) => manager.receive(room, prompt))
      preallocating.push({ room, ids, legs, cancelled })
    },
    step() {
      for (const request of preallocating) {
        request.lease ??= pool.tryAllocate(pagesFor(request))
        if (request.lease === undefined) break // the others wait behind it
        for (const leg of request.legs)
          leg.reserve({ pages: request.lease.pages }).catch(() => undefined)
      }
      transferring.push(...taken(preallocating, ({ lease }) => lease !== undefined))
      for (const { legs, cancelled } of transferring)
        if (cancelled) for (const leg of legs) leg.abort('the client has gone away')
      for (const request of taken(transferring, hasEnded)) {
        const error = request.legs.find((leg) => leg.error)?.error.code
        const found = error === undefined ? { right: isRight(request) } : { error }
        answer({ room: Number(request.room), ...found })
        giveBack(request)
      }
      return preallocating.length + transferring.length > 0
    },
  }
}

const token = randomBytes(32).toString('hex')
const bootstrap = await BootstrapServer.open({ host: '127.0.0.1', port: 0, token, log: silentLog })
const sides = [
  await openSide('prefill', { token, bootstrap: bootstrap.address }),
  await openSide('decode', { token }),
]
const schedulers = [
  prefillScheduler(sides[0]),
  decodeScheduler(sides[1], bootstrap.address, (found) => console.log(JSON.stringify(found))),
]

// What a router would send to both: six prompts of up to three pages, more than eight pages hold at once; one client goes away.
for (const [i, length] of [40, 33, 48, 20, 48, 17].entries()) {
  const ids = Array.from({ length }, (_, token) => (i + token) % 200)
  const request = { room: BigInt(i), ids, cancelled: i === 3 }
  for (const scheduler of schedulers) scheduler.add(request)
}
while (schedulers.map((scheduler) => scheduler.step()).includes(true)) await nextTurn()

for (const { managers, memories } of sides) {
  await Promise.all(managers.map((manager) => manager.close()))
  for (const memory of memories) memory.free()
}
await bootstrap.close()
