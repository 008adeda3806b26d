// One prompt between instances that are divided differently: prefill by tensor parallelism over 4 ranks, decode over 2, each rank a
// process with one manager. Which prefill ranks send to a decode rank, and which heads, kvx works out from the ranks alone.
import { fork } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { BootstrapServer, KVManager, promptDigest, silentLog } from '@kvx/core'
import { allocate } from '@kvx/native'

// What the cache is, the same on all ranks: 4 layers of K and V with 8 heads of 128 numbers in 16 bits.
const [layers, heads, headBytes] = [4, 8, 256]
const tensors = Array.from({ length: layers }, (_, layer) =>
  ['k', 'v'].map((part) => ({ layer, part, dtype: 'bf16', units: heads, unitBytes: headBytes })),
).flat()
const components = [{ name: 'kv', addressed: 'tokens', tensors }]
const shape = { model: 'example', layers, components }

const [pages, pageTokens] = [8, 16]
const ids = Array.from({ length: 40 }, (_, i) => i) // two whole pages and a half
const prompt = { tokens: ids.length, digest: promptDigest(ids) }
const room = 7n // a router would choose it, and tell both sides

/** Where a rank keeps its share of the heads: tensor after tensor all pages, each [token][head][dim]. */
function placeOf(tpSize) {
  const pageBytes = (pageTokens * heads * headBytes) / tpSize
  const kept = tensors.map(({ layer, part }, i) => ({
    ...{ component: 'kv', layer, part, order: 'NHD' },
    ...{ region: 0, base: i * pages * pageBytes, pageBytes },
  }))
  return { components: { kv: { pageTokens, pages } }, tensors: kept }
}

/** Calls `visit` with the bytes of every cell of the prompt that this rank holds, and the number that fills it. */
function eachCell(memory, { tp, tpSize }, held, visit) {
  const share = heads / tpSize
  for (const [i, { base, pageBytes }] of placeOf(tpSize).tensors.entries()) {
    for (const token of ids) {
      const row = base + held[Math.floor(token / pageTokens)] * pageBytes
      for (let head = 0; head < share; head += 1) {
        const at = row + ((token % pageTokens) * share + head) * headBytes
        visit(memory.view(at, headBytes), (31 * i + 7 * token + tp * share + head) % 251)
      }
    }
  }
}

async function prefill(manager, memory, rank) {
  const held = [0, 1, 2]
  const sender = manager.send(room, prompt)
  await sender.reserved()
  eachCell(memory, rank, held, (cell, number) => cell.fill(number)) // what the model computes
  await sender.write({ tokens: [0, ids.length], pages: held })
  await sender.finish({ aux: { firstToken: 42 } })
  await sender.settled
}

async function decode(manager, memory, rank, from) {
  const held = [6, 1, 3]
  const receiver = manager.receive(room, { ...prompt, from })
  await receiver.reserve({ pages: held })
  const { aux, report } = await receiver.done
  await receiver.settled
  let wrong = 0
  eachCell(memory, rank, held, (cell, number) => (wrong += cell.every((b) => b === number) ? 0 : 1))
  return { role: 'decode', tp: rank.tp, firstToken: aux.firstToken, bytes: report.bytes, wrong }
}

/** The process of one rank. */
async function runRank({ role, rank, token, bootstrap }) {
  const memory = allocate((layers * 2 * pages * pageTokens * heads * headBytes) / rank.tpSize)
  const place = placeOf(rank.tpSize)
  const manager = await KVManager.open({
    ...{ role, rank, token, shape, place, memory: [memory], instance: `the ${role} instance` },
    ...{ backend: 'shm', from: import.meta.url },
    ...(role === 'prefill' ? { bootstrap } : {}),
  })
  const found = await (role === 'prefill' ? prefill : decode)(manager, memory, rank, bootstrap)
  await manager.close()
  memory.free()
  return found ?? { role, tp: rank.tp }
}

/** Starts the process of one rank, and resolves with what it has found. */
function started(task) {
  const child = fork(new URL(import.meta.url))
  child.send(task)
  return new Promise((resolve, reject) => {
    child.on('message', resolve)
    child.on('error', reject)
    child.on('exit', (code) => reject(new Error(`A ${task.role} rank ended with ${code}.`)))
  })
}

if (process.send === undefined) {
  const token = randomBytes(32).toString('hex')
  const bootstrap = await BootstrapServer.open({
    host: '127.0.0.1',
    port: 0,
    token,
    log: silentLog,
  })
  const ranks = (role, tpSize) =>
    Array.from({ length: tpSize }, (_, tp) => ({ role, rank: { tp, tpSize } }))
  const all = [...ranks('prefill', 4), ...ranks('decode', 2)]
  const found = await Promise.all(
    all.map((task) => started({ ...task, token, bootstrap: bootstrap.address })),
  )
  await bootstrap.close()
  for (const one of found) console.log(JSON.stringify(one))
} else {
  process.once('disconnect', () => process.exit()) // no rank outlives the others
  process.once('message', async (task) =>
    process.send(await runRank(task), () => process.disconnect()),
  )
}
