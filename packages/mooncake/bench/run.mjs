// Mooncake through Node beside the wheel's own transfer_engine_bench, in the same run:
//   npm run bench --workspace @kvx/mooncake
//
// Both write over TCP on the loopback device, one batch at a time, to a target process of their own. They take turns,
// round after round; who has no turn stands still. The pieces lie two apart in Node, so that none can be merged.
import { execFileSync, fork, spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { join } from 'node:path'
import { silentLog } from '@kvx/contract'
import mooncake, { wheelSpec } from '@kvx/mooncake'
import { allocate } from '@kvx/native'
import { installWheel } from '@kvx/vendor'

const rounds = Number(process.env.KVX_BENCH_ROUNDS ?? 15)
/** Of each turn; transfer_engine_bench knows whole seconds only. */
const seconds = 1
const bytes = 2 * 64 * 2 ** 20
const pool = { MC_TCP_ENABLE_CONNECTION_POOL: '1' }

const { folder, version } = await installWheel(wheelSpec())
const program = join(folder, 'mooncake/transfer_engine_bench')
const children = []
process.on('exit', () => {
  for (const child of children) child.kill('SIGKILL')
})

/** Starts the bench's target and reads from its log by which name it is reached. */
async function startNativeTarget() {
  const target = spawn(program, [...common(), '--mode=target'], {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { ...process.env, ...pool, MC_LOG_LEVEL: 'INFO' },
  })
  children.push(target)
  let log = ''
  for await (const chunk of target.stderr) {
    log += chunk
    const name = /listening on (127\.0\.0\.1:\d+)/.exec(log)?.[1]
    // The transport is ready once its data port is open and the memory is registered.
    if (name !== undefined && /TcpTransport: listen/.test(log)) {
      await once(process, 'nextTurn-never', { signal: AbortSignal.timeout(500) }).catch(
        () => undefined,
      )
      return { target, name }
    }
  }
  throw new Error(`transfer_engine_bench ended: ${log}`)
}

function common() {
  return [
    '--metadata_server=P2PHANDSHAKE',
    '--local_server_name=127.0.0.1:0',
    '--protocol=tcp',
    `--buffer_size=${String(bytes)}`,
  ]
}

/** GB/s of one turn of the vendor's program with one thread. */
function nativeTurn(name, size, count) {
  const { stderr, stdout, status } = runSync([
    ...common(),
    '--mode=initiator',
    `--segment_id=${name}`,
    '--operation=write',
    '--threads=1',
    `--block_size=${String(size)}`,
    `--batch_size=${String(count)}`,
    `--duration=${String(seconds)}`,
    '--report_unit=GB',
    '--report_precision=4',
  ])
  const found = /throughput ([\d.]+) GB\/s/.exec(stderr + stdout)
  if (found === null)
    throw new Error(`transfer_engine_bench gave no result (${String(status)}): ${stderr}`)
  return Number(found[1])
}

function runSync(parameters) {
  const result = { stdout: '', stderr: '', status: 0 }
  try {
    result.stdout = execFileSync('sh', ['-c', 'exec "$0" "$@" 2>&1', program, ...parameters], {
      encoding: 'utf8',
      env: { ...process.env, ...pool, MC_LOG_LEVEL: 'INFO' },
      timeout: 60_000,
      maxBuffer: 2 ** 26,
    })
  } catch (error) {
    result.status = error.status
    result.stdout = String(error.stdout)
  }
  return result
}

async function startNode() {
  const target = fork(fileURLToPath(new URL('target.mjs', import.meta.url)), [String(bytes)], {
    serialization: 'advanced',
  })
  children.push(target)
  const [peer] = await once(target, 'message')
  const engine = await mooncake.open(
    { hostname: '127.0.0.1' },
    { generation: 'b'.repeat(32), log: silentLog },
  )
  const memory = allocate(bytes)
  memory.view(0, bytes).fill(2)
  await engine.register(memory)
  return { target, engine, link: await engine.connect(peer) }
}

/** Every second place, so that no two pieces are neighbours. */
function spread(size, count) {
  return {
    lanes: Float64Array.of(0, 0, 0, 0, size, size, size, 1, 0, 0),
    groups: Int32Array.from(Array.from({ length: count }, (_, i) => [2 * i, 2 * i, 1]).flat()),
    blocks: Int32Array.of(0, count, 0, 1),
  }
}

async function nodeTurn(link, size, count) {
  const plan = spread(size, count)
  const begin = performance.now()
  let sent = 0
  while (performance.now() - begin < seconds * 1000) {
    const report = await link.write(plan).done
    if (report.segments !== count) throw new Error('Pieces were merged.')
    sent += report.bytes
  }
  return sent / (performance.now() - begin) / 1e6
}

const sorted = (values) => [...values].sort((a, b) => a - b)
const quantile = (values, share) => sorted(values)[Math.floor(share * (values.length - 1))]
const median = (values) => {
  const s = sorted(values)
  return (s[(s.length - 1) >> 1] + s[s.length >> 1]) / 2
}

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

const native = await startNativeTarget()
const node = await startNode()
node.target.channel?.unref()

async function nativeRound(size, count) {
  native.target.kill('SIGCONT')
  node.target.kill('SIGSTOP')
  return nativeTurn(native.name, size, count)
}
async function nodeRound(size, count) {
  node.target.kill('SIGCONT')
  native.target.kill('SIGSTOP')
  return nodeTurn(node.link, size, count)
}

console.log(
  `Mooncake ${version} over TCP, Node ${process.version}, ${String(rounds)} rounds of ${String(seconds)} s\n`,
)
for (const [label, size, count] of [
  ['64 KiB × 64', 65536, 64],
  ['1 MiB × 64', 2 ** 20, 64],
]) {
  await nativeRound(size, count)
  await nodeRound(size, count)
  const ratios = []
  console.log(`${label}\n  round   bench GB/s   Node GB/s   ratio`)
  for (let round = 1; round <= rounds; round++) {
    // Who begins changes, so that neither always comes after the other.
    let theirs = round % 2 === 1 ? await nativeRound(size, count) : 0
    const ours = await nodeRound(size, count)
    if (round % 2 === 0) theirs = await nativeRound(size, count)
    ratios.push(ours / theirs)
    console.log(
      `  ${String(round).padStart(5)}   ${theirs.toFixed(3).padStart(10)}   ${ours.toFixed(3).padStart(9)}   ${(ours / theirs).toFixed(3)}`,
    )
  }
  const [low, high] = interval(ratios)
  console.log(
    `  median of the ratios ${median(ratios).toFixed(3)}, 95 % interval ${low.toFixed(3)} to ${high.toFixed(3)}\n`,
  )
}

node.target.kill('SIGCONT')
native.target.kill('SIGSTOP')
const latencies = []
for (let i = 0; i < 4000; i++) {
  const begin = performance.now()
  await node.link.write(spread(4096, 1)).done
  if (i >= 1000) latencies.push((performance.now() - begin) * 1000)
}
console.log(
  `4 KiB through Node: p50 ${quantile(latencies, 0.5).toFixed(0)} µs, p99 ${quantile(latencies, 0.99).toFixed(0)} µs`,
)

const submits = []
const thousand = spread(4096, 1000)
for (let i = 0; i < 200; i++) {
  const begin = performance.now()
  const { done } = node.link.write(thousand)
  submits.push((performance.now() - begin) * 1000)
  await done
}
console.log(
  `write() of 1,000 pieces keeps the JavaScript thread: p50 ${quantile(submits, 0.5).toFixed(1)} µs, p99 ${quantile(submits, 0.99).toFixed(1)} µs`,
)
await node.engine.close()
process.exit()
