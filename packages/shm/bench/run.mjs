// `npm run bench --workspace @kvx/shm [-- --rounds N]`
//
// GB/s (10^9 bytes) of whole writes, from the call of write() until `done` has resolved, between two processes, beside
// a plain memcpy loop with as many threads, and with one, over the very same mappings, all faulted in beforehand. They
// take turns within a round; the ratios are taken within each round, since the machine changes between rounds.
// Then the time that one write() holds up the JavaScript thread.
import { fork, spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { cpus } from 'node:os'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { silentLog } from '@kvx/contract'
import { allocate, expand } from '@kvx/native'
import shm from '@kvx/shm'

const { values } = parseArgs({ options: { rounds: { type: 'string', default: '11' } } })
const rounds = Math.max(9, Number(values.rounds))
const KiB = 1024
const bytes = 256 * KiB * KiB
const sizes = [4, 36, 64, 1024].map((size) => size * KiB)

const path = (name) => fileURLToPath(new URL(name, import.meta.url))

function loadMemcpy() {
  const { status } = spawnSync(
    process.execPath,
    [path('../../../tools/native/gyp.mjs'), path('memcpy')],
    { stdio: ['ignore', 'ignore', 'inherit'] },
  )
  if (status !== 0) process.exit(1)
  return createRequire(import.meta.url)(path('memcpy/build/Release/memcpy.node'))
}

/** Where this process has mapped the file: the engine's own mapping. */
function mappingOf(inode) {
  for (const line of readFileSync('/proc/self/maps', 'utf8').split('\n')) {
    const [range, , , , number] = line.split(/\s+/)
    if (Number(number) === inode) return BigInt(`0x${range.split('-')[0]}`)
  }
  throw new Error('The engine has not mapped the memory of the owner.')
}

const shuffled = (count) => {
  const order = Array.from({ length: count }, (_, i) => i)
  for (let i = count - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1))
    ;[order[i], order[j]] = [order[j], order[i]]
  }
  return order
}

/** How much of the owner's memory lies in huge pages here, in MiB. */
function hugeMebibytesOf(inode) {
  const smaps = readFileSync('/proc/self/smaps', 'utf8')
  const mapping = smaps.slice(smaps.search(new RegExp(`^\\S+ \\S+ \\S+ \\S+ ${inode} `, 'm')))
  return Number(/^ShmemPmdMapped:\s+(\d+)/m.exec(mapping)?.[1] ?? 0) / KiB
}

/** Pages in scattered order on both sides. */
function planOf(lanes, pages) {
  const [from, to] = [shuffled(pages), shuffled(pages)]
  return {
    lanes: Float64Array.from(lanes.flat()),
    groups: Int32Array.from(from.flatMap((page, i) => [page, to[i], 1])),
    blocks: Int32Array.of(0, pages, 0, lanes.length),
  }
}

/** Processor time that the JavaScript thread has used. */
const cpuMicroseconds = () =>
  Number(readFileSync(`/proc/self/task/${process.pid}/schedstat`, 'utf8').split(' ')[0]) / 1000

const quantile = (numbers, q) => {
  const sorted = [...numbers].sort((a, b) => a - b)
  return sorted[Math.round((sorted.length - 1) * q)]
}
const spread = (numbers, digits) =>
  `${quantile(numbers, 0.5).toFixed(digits)}  [${quantile(numbers, 0).toFixed(digits)} … ${quantile(numbers, 1).toFixed(digits)}]`

const memcpy = loadMemcpy()
const child = fork(path('owner.mjs'), [String(bytes)])
const [peer] = await once(child, 'message')
const source = allocate(bytes)
source.view(0, bytes).fill(randomBytes(1)[0])

async function connect(copyThreads) {
  const generation = randomBytes(16).toString('hex')
  const engine = await shm.open({ copyThreads }, { generation, log: silentLog })
  await engine.register(source)
  const link = await engine.connect({
    generation: peer.generation,
    address: Buffer.from(peer.address, 'base64'),
    regions: [Buffer.from(peer.descriptor, 'base64')],
  })
  return { engine, link }
}

console.log(`node ${process.version}, ${cpus().length} × ${cpus()[0]?.model ?? 'unknown CPU'}`)
console.log(`${bytes / KiB / KiB} MiB per write, ${rounds} interleaved rounds, GB/s\n`)

for (const threads of [1, 2]) {
  const { engine, link } = await connect(threads)
  const destination = mappingOf(peer.inode)
  for (const size of sizes) {
    const pages = Math.floor(bytes / size)
    const plan = planOf([[0, 0, 0, 0, size, size, size, 1, size, size]], pages)
    const rows = expand(plan, [bytes], [bytes], engine.capabilities.maxSegmentBytes)
    const moved = pages * size
    const measure = {
      kvx: async () => {
        const started = performance.now()
        await link.write(plan).done
        return moved / (performance.now() - started) / 1e6
      },
      memcpy: () => moved / memcpy.run(source.address, destination, rows, threads) / 1e9,
      ...(threads > 1 && {
        one: () => moved / memcpy.run(source.address, destination, rows, 1) / 1e9,
      }),
    }
    for (const run of Object.values(measure)) await run() // faults in, warms up
    const names = Object.keys(measure)
    const results = Object.fromEntries(names.map((name) => [name, []]))
    for (let round = 0; round < rounds; round++) {
      const order = names.map((_, i) => names[(i + round) % names.length])
      for (const name of order) results[name].push(await measure[name]())
    }
    const ratios = (name) => results.kvx.map((speed, i) => speed / results[name][i])
    console.log(`${size / KiB} KiB runs, ${threads} copy thread${threads > 1 ? 's' : ''}`)
    for (const [name, list] of Object.entries(results)) {
      console.log(`  ${name.padEnd(7)}${list.map((n) => n.toFixed(2)).join(' ')}`)
    }
    const toOne = threads > 1 ? `, to one thread ${spread(ratios('one'), 2)}` : ''
    console.log(
      `  median ratio ${spread(ratios('memcpy'), 2)}${toOne}   kvx ${spread(results.kvx, 1)} GB/s\n`,
    )
  }
  // A mapping shows them once it has been touched.
  console.log(`${hugeMebibytesOf(peer.inode)} MiB of the destination in huge pages\n`)
  await engine.close()
}

{
  // 64 layers of K and V, 8192 tokens in pages of 16, every page elsewhere: 65,536 runs of 4 KiB.
  const { engine, link } = await connect(1)
  const [layers, pages, size] = [64, 512, 4 * KiB]
  const lanes = Array.from({ length: 2 * layers }, (_, i) => {
    const base = i * pages * size
    return [0, 0, base, base, size, size, size, 1, size, size]
  })
  const plan = planOf(lanes, pages)
  const wall = []
  for (let i = 0; i < 210; i++) {
    const started = performance.now()
    const { done } = link.write(plan)
    const took = (performance.now() - started) * 1000
    const { segments } = await done
    if (segments !== layers * 2 * pages) throw new Error(`unexpected: ${segments} segments`)
    if (i >= 10) wall.push(took) // the first ones warm up
  }
  // On a busy machine a call is often interrupted: the processor time of the thread tells what it costs
  // (of many calls, since the kernel counts in steps; with short runs, since the bytes make no difference here).
  const cpu = []
  const light = { ...plan, lanes: plan.lanes.map((value, i) => (i % 10 === 6 ? 64 : value)) }
  for (let i = 0; i < 20; i++) {
    const started = cpuMicroseconds()
    const transfers = Array.from({ length: 200 }, () => link.write(light))
    cpu.push((cpuMicroseconds() - started) / transfers.length)
    await Promise.all(transfers.map(({ settled }) => settled))
  }
  console.log(
    'one write() of 64 layers × 8192 tokens, page 16, scattered: µs on the JavaScript thread',
  )
  for (const [name, calls] of Object.entries({ wall, cpu })) {
    const [low, median, high] = [0.1, 0.5, 0.9].map((q) => quantile(calls, q).toFixed(1))
    console.log(
      `  ${name.padEnd(5)} median ${median}, 10 % ${low}, 90 % ${high} (${calls.length} samples)`,
    )
  }
  await engine.close()
}

child.send({ at: bytes - 1 })
const [{ byte }] = await once(child, 'message')
if (byte !== source.view(bytes - 1, 1)[0]) throw new Error('The bytes did not arrive.')
child.kill()
