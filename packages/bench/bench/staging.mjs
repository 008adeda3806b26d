// From how many bytes on a run is better written as it is: runs of one tensor's pages, scattered over a pool, written one by one and
// staged (gathered, one long write, scattered), and as many bytes in whole pages of 64 KiB. Two engines of one process.
//
//   node bench/staging.mjs [--rounds 5] [--bytes 4194304] [engine…]     default: shm mooncake
import { randomBytes } from 'node:crypto'
import { parseArgs } from 'node:util'
import { loadBackend } from '@kvx/core/backend'
import { allocate } from '@kvx/native'

const { values, positionals } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    bytes: { type: 'string', default: String(4 << 20) },
  },
  allowPositionals: true,
})
const [rounds, bytes] = [values.rounds, values.bytes].map(Number)
const engines = positionals.length > 0 ? positionals : ['shm', 'mooncake']
const runs = [256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536]
const log = { debug() {}, info() {}, warn() {}, error() {} }
const optionsOf = { mooncake: { hostname: '127.0.0.1' }, mori: { host: '127.0.0.1' } }

/** Every second run of the source, in another order. */
function planOf(run) {
  const count = bytes / run
  const order = Array.from({ length: count }, (_, i) => (i * 7919) % count)
  const groups = order.flatMap((to, from) => [2 * from, 2 * to, 1])
  return {
    lanes: Float64Array.of(0, 0, 0, 0, run, run, run, 1, 0, 0),
    groups: Int32Array.from(groups),
    blocks: Int32Array.of(0, count, 0, 1),
  }
}

const long = (from, to) => ({
  lanes: Float64Array.of(from, to, 0, 0, bytes, bytes, bytes, 1, 0, 0),
  groups: Int32Array.of(0, 0, 1),
  blocks: Int32Array.of(0, 1, 0, 1),
})

async function openEngine(backend, name) {
  const generation = randomBytes(16).toString('hex')
  const engine = await backend.open(optionsOf[name] ?? {}, { generation, log })
  const memory = allocate(2 * bytes)
  memory.view(0, 2 * bytes).fill(1)
  const region = await engine.register(memory)
  const staging = await engine.openStaging(bytes)
  const regions = [region.descriptor, staging.region.descriptor]
  return { engine, generation, staging, regions }
}

async function written(link, plan) {
  const transfer = link.write(plan, { deadlineMs: 120_000 })
  await transfer.done
  await transfer.settled
}

const median = (list) => list.sort((a, b) => a - b)[Math.floor(list.length / 2)]
const rate = (times) => {
  const rates = times.map((ms) => bytes / ms / 1e6)
  return [median(rates), Math.min(...rates), Math.max(...rates)].map((x) => x.toFixed(2))
}
const shown = ([middle, least, most]) => `${middle} (${least} to ${most})`

console.log(`${bytes} bytes, ${rounds} rounds, interleaved: GB/s, median (least to most)\n`)
console.log('| engine | a run | as it is | staged |')
console.log('| --- | --- | --- | --- |')
for (const name of engines) {
  const backend = await loadBackend(name, { from: import.meta.url })
  const [source, target] = [await openEngine(backend, name), await openEngine(backend, name)]
  const { address } = target.engine
  const link = await source.engine.connect({ ...target, address })
  for (const run of runs) {
    const plan = planOf(run)
    const ways = {
      direct: () => written(link, plan),
      staged: async () => {
        await source.staging.gather(plan, 0)
        await written(link, long(1, 1))
        await target.staging.scatter(plan, 0)
      },
    }
    const times = { direct: [], staged: [] }
    for (let round = -1; round < rounds; round++) {
      for (const [way, move] of Object.entries(ways)) {
        const begun = performance.now()
        await move()
        if (round >= 0) times[way].push(performance.now() - begun)
      }
    }
    const cells = [name, run, shown(rate(times.direct)), shown(rate(times.staged))]
    console.log(`| ${cells.join(' | ')} |`)
  }
  await link.close()
  await source.engine.close()
  await target.engine.close()
}
