// `npm run bench:gpu --workspace @kvx/shm [-- --rounds N]`
//
// What a write between GPUs takes beside the copy itself, in microseconds: its call, which JavaScript waits for, and the time until
// `done` has resolved. Lanes and pages are those of a chunk of 64 MiB, but nothing is copied: the driver is the fake one of the tests,
// whose launches take no time and whose kernels wait instead, for as long as such a copy takes; that is not counted.
import { spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { silentLog } from '@kvx/contract'
import { allocate } from '@kvx/native'
import shm from '@kvx/shm'

const { values } = parseArgs({ options: { rounds: { type: 'string', default: '2000' } } })
const rounds = Math.max(100, Number(values.rounds))
const path = (name) => fileURLToPath(new URL(name, import.meta.url))

const lanes = 64
const bytes = 64 * 1024 * 1024
/** Microseconds of such a copy. */
const kernel = 200

const folder = path('../../native/test/fake-cuda')
const build = [path('../../../tools/native/gyp.mjs'), folder]
const { status } = spawnSync(process.execPath, build, { stdio: ['ignore', 'ignore', 'inherit'] })
if (status !== 0) process.exit(1)
process.env.KVX_CUDA_LIBRARY = `${folder}/build/Release/fakecuda.so`
process.env.KVX_FAKE_CUDA_IDLE = String(kernel)

async function engineOn(device) {
  const generation = randomBytes(16).toString('hex')
  const engine = await shm.open({}, { generation, log: silentLog })
  const memory = await allocate(bytes, { kind: 'cuda', device })
  const { descriptor } = await engine.register(memory)
  return { engine, memory, peer: { generation, address: engine.address, regions: [descriptor] } }
}

/** Pages in reverse order, each lane a piece of its own. */
function planOf(pages) {
  const run = bytes / lanes / pages
  const rows = Array.from({ length: lanes }, (_, lane) => {
    const base = lane * run * pages
    return [0, 0, base, base, run, run, run, 1, run, run]
  })
  return {
    lanes: Float64Array.from(rows.flat()),
    groups: Int32Array.from(Array.from({ length: pages }, (_, i) => [i, pages - 1 - i, 1]).flat()),
    blocks: Int32Array.of(0, pages, 0, lanes),
  }
}

const at = (numbers, share) =>
  numbers.sort((a, b) => a - b)[Math.floor(numbers.length * share)].toFixed(1)
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

async function measure(link, plan, inFlight, pauseMs) {
  const calls = []
  const whole = []
  const count = pauseMs > 0 ? rounds / 10 : rounds
  for (let round = -50; round < count; round++) {
    if (pauseMs > 0) await pause(pauseMs)
    const transfers = []
    const began = performance.now()
    let before = began
    for (let i = 0; i < inFlight; i++) {
      transfers.push(link.write(plan))
      const now = performance.now()
      if (round >= 0) calls.push((now - before) * 1000)
      before = now
    }
    for (const { done } of transfers) await done
    if (round >= 0) whole.push((performance.now() - began) * 1000 - inFlight * kernel)
    for (const { settled } of transfers) await settled
  }
  return [at(calls, 0.5), at(calls, 0.9), at(whole, 0.5), at(whole, 0.9)]
}

const writer = await engineOn(0)
const owner = await engineOn(1)
const link = await writer.engine.connect(owner.peer)
const line = (cells) => console.log(cells.map((cell) => String(cell).padStart(14)).join(''))
line(['writes', 'pages', 'call µs', '90 %', 'until done µs', '90 %'])
for (const [name, inFlight, pauseMs] of [
  ['one', 1, 0],
  ['one in 2 ms', 1, 2],
  ['8 at once', 8, 0],
]) {
  for (const pages of [16, 64, 256, 4096]) {
    line([name, pages, ...(await measure(link, planOf(pages), inFlight, pauseMs))])
  }
}
await Promise.all([writer.engine.close(), owner.engine.close()])
