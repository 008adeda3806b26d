// MORI through Node beside MORI through C++ with the same driver, in the same run: npm run bench --workspace @kvx/mori
//
// Two pairs of processes on the fake libibverbs. The writers take turns, round after round, and whoever has no turn
// stands still, the targets all the time: MORI spins a thread per engine, and RDMA writes ask nothing of a target. The
// libibverbs is a memory copy, so the figures tell what Node costs on top, and nothing about a network.
import { execFileSync, spawn } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { wheelSpec } from '@kvx/mori'
import { installWheel } from '@kvx/vendor'
import { buildFakeVerbs } from '../test/fake-verbs/build.mjs'

const rounds = Number(process.env.KVX_BENCH_ROUNDS ?? 21)
const bytes = 2 * 64 * 2 ** 20
const folder = dirname(fileURLToPath(import.meta.url))
const root = join(folder, '..')
const release = join(root, 'build/Release')
const { folder: wheel, version } = await installWheel(wheelSpec())
const verbs = buildFakeVerbs()

function buildNative() {
  const program = join(root, 'build/bench/native')
  mkdirSync(dirname(program), { recursive: true })
  const sources = ['driver', 'library', 'network', 'verbs'].map((name) =>
    join(root, `native/${name}.cc`),
  )
  const includes = [join(root, 'native'), join(root, '../native/include')].map(
    (path) => `-I${path}`,
  )
  execFileSync(process.env.CXX ?? 'c++', [
    ...[
      '-std=gnu++20',
      '-O2',
      '-pthread',
      '-o',
      program,
      ...includes,
      join(folder, 'native.cc'),
      ...sources,
      '-ldl',
    ],
  ])
  return program
}

class Side {
  #process
  #lines
  constructor(command, parameters) {
    const environment = {
      MORI_GLOBAL_LOG_LEVEL: 'critical',
      MORI_IO_FAIL_ON_ASYNC_EVENT: 'false',
      MORI_ROCM_SMI_PATH: join(release, 'librocm_smi64.so.1'),
      KVX_MORI_VERBS: 'fake',
    }
    this.#process = spawn(command, parameters, {
      stdio: ['pipe', 'pipe', 'inherit'],
      env: { ...process.env, ...environment },
    })
    this.#lines = createInterface({ input: this.#process.stdout })[Symbol.asyncIterator]()
  }
  async line() {
    const { value, done } = await this.#lines.next()
    if (done) throw new Error('A process of the benchmark ended early.')
    return value
  }
  ask(command) {
    this.#process.stdin.write(`${command}\n`)
    return this.line()
  }
  async seconds(command) {
    return (await this.ask(command)).trim().split(' ').map(Number)
  }
  pause(paused) {
    this.#process.kill(paused ? 'SIGSTOP' : 'SIGCONT')
  }
  end() {
    this.pause(false)
    this.#process.stdin.end()
  }
}

const program = buildNative()
const native = ['writer', 'target'].map(
  () =>
    new Side(program, [join(wheel, 'mori/libmori_io.so'), release, verbs, version, String(bytes)]),
)
const node = ['writer', 'target'].map(
  () => new Side(process.execPath, [join(folder, 'node.mjs'), String(bytes)]),
)
const sides = [...native, ...node]
process.on('exit', () => {
  for (const side of sides) side.end()
})

await Promise.all(
  native.map(async (side) => (side.name = [await side.line(), await side.line()].join(' '))),
)
await Promise.all(node.map(async (side) => (side.name = await side.line())))
await native[0].ask(`connect ${native[1].name}`)
await node[0].ask(`connect ${node[1].name}`)

/** One writer works while everybody else stands still. */
async function turn(pair, command) {
  for (const side of sides) side.pause(side !== pair[0])
  return pair[0].seconds(command)
}

const sorted = (values) => [...values].sort((a, b) => a - b)
const quantile = (values, share) =>
  sorted(values)[Math.min(values.length - 1, Math.floor(share * values.length))]
const median = (values) => {
  const s = sorted(values)
  return (s[(s.length - 1) >> 1] + s[s.length >> 1]) / 2
}
const sum = (values) => values.reduce((a, b) => a + b, 0)

/** The 95 % interval of a median by order statistics: the ranks between which it lies with that probability. */
function interval(values) {
  const n = values.length
  let tail = 0
  let rank = 0
  for (let k = 0, probability = 0.5 ** n; k < n / 2; k++) {
    tail += probability
    if (tail > 0.025) break
    rank = k + 1
    probability = (probability * (n - k)) / (k + 1)
  }
  const s = sorted(values)
  return [s[Math.max(0, rank - 1)], s[n - Math.max(1, rank)]]
}

console.log(
  `MORI ${version} on a fake libibverbs, Node ${process.version}, ${String(rounds)} rounds\n`,
)
for (const [label, size, count, times] of [
  ['64 KiB × 64', 65536, 64, 100],
  ['1 MiB × 64', 2 ** 20, 64, 8],
]) {
  // Twice as often, and only the second half counts: the system first has to spread the threads that it wakes
  // over the cores.
  const command = `write ${String(size)} ${String(count)} ${String(2 * times)}`
  await turn(native, command)
  await turn(node, command)
  const ratios = []
  console.log(`${label}\n  round   C++ GB/s   Node GB/s   ratio`)
  for (let round = 1; round <= rounds; round++) {
    // Who begins changes, so that neither always comes after the other.
    const order = round % 2 ? [native, node] : [node, native]
    const rates = new Map()
    for (const pair of order) {
      const seconds = (await turn(pair, command)).slice(times)
      rates.set(pair, (size * count * times) / sum(seconds) / 1e9)
    }
    const [a, b] = [rates.get(native), rates.get(node)]
    ratios.push(b / a)
    console.log(
      `  ${String(round).padStart(5)} ${a.toFixed(2).padStart(10)} ${b.toFixed(2).padStart(11)} ${(b / a).toFixed(3).padStart(7)}`,
    )
  }
  const [low, high] = interval(ratios)
  console.log(
    `  median of the ratios ${median(ratios).toFixed(3)}, 95 % interval ${low.toFixed(3)} to ${high.toFixed(3)}\n`,
  )
}

const micro = (value) => (value * 1e6).toFixed(1)
for (const [label, pair] of [
  ['C++', native],
  ['Node', node],
]) {
  await turn(pair, 'write 4096 1 200')
  const seconds = await turn(pair, 'write 4096 1 2000')
  console.log(
    `4 KiB, one segment, ${label}: p50 ${micro(quantile(seconds, 0.5))} µs, p99 ${micro(quantile(seconds, 0.99))} µs`,
  )
}
await turn(node, 'submit 4096 1000 50')
const submits = await turn(node, 'submit 4096 1000 300')
console.log(
  `1,000 segments of 4 KiB keep the JavaScript thread: p50 ${micro(quantile(submits, 0.5))} µs, p99 ${micro(quantile(submits, 0.99))} µs`,
)
process.exit(0)
