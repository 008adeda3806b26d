// `npm run fuzz [-- --frames N] [--seed S] [--sockets N] [--hash N]`
//
// Mutated and random frames against the real code, before and after the handshake. Ends with 0 when nothing was found.
// Needs the built packages of this repository (`npm run setup`).
import { parseArgs } from 'node:util'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { fuzzReducers } from './reducers.mjs'
import { fuzzSockets } from './sockets.mjs'

const { values } = parseArgs({
  options: {
    frames: { type: 'string', default: '10000000' },
    seed: { type: 'string', default: String(Math.floor(Math.random() * 2 ** 32)) },
    sockets: { type: 'string' },
    hash: { type: 'string' },
    stack: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
})
if (values.help) {
  console.log(`npm run fuzz [-- OPTIONS]

  --frames N    mutated and random frames in all (10000000)
  --seed S      which ones (random); a seed replays its frames exactly, except those that go through sockets
  --sockets N   how many of them go through real sockets (one in 200)
  --hash N      compare the whole state around every N-th refused frame (1 up to 200000 frames, else 64)
  --stack       errors tell where they arose (slow; to look into a finding)`)
  process.exit(0)
}
const whole = (name, fallback) => {
  const value = values[name] === undefined ? fallback : Number(values[name])
  if (Number.isSafeInteger(value) && value >= 0) return value
  console.error(`--${name} takes a whole number, not '${values[name]}'.`)
  process.exit(2)
}
const frames = whole('frames')
const seed = whole('seed')
const sockets = Math.min(frames, whole('sockets', Math.ceil(frames / 200)))
const everyHash = Math.max(1, whole('hash', frames <= 200_000 ? 1 : 64))

/** Bytes of resident memory that may be gained per million frames, and in all. */
const maxSlope = 1 << 20
const maxGrowth = 48 << 20

setFlagsFromString('--expose-gc')
const gc = runInNewContext('gc')
// Millions of refusals are made; where each was made is of no interest.
Error.stackTraceLimit = values.stack ? 50 : 0
const started = performance.now()
const seconds = () => ((performance.now() - started) / 1_000).toFixed(0)
const samples = []
let shown = 0

const defects = []
process.on('unhandledRejection', (reason) => defects.push(reason))

console.log(`seed ${seed}, ${frames} frames, ${sockets} of them through sockets`)
const counts = fuzzReducers({
  seed,
  frames: frames - sockets,
  everyHash,
  onProgress(done) {
    gc()
    samples.push([done, process.memoryUsage.rss()])
    if (performance.now() - shown < 10_000) return
    shown = performance.now()
    console.log(`${done} frames, ${seconds()} s, ${(samples.at(-1)[1] / 2 ** 20).toFixed(1)} MiB`)
  },
})
const reached = await fuzzSockets({ seed, frames: sockets })

for (const [name, count] of Object.entries({ ...counts, ...reached }).sort())
  console.log(`${String(count).padStart(10)}  ${name}`)

// The first quarter warms up the compiler and the heap.
const warm = samples.slice(Math.floor(samples.length / 4))
let isLeaking = false
if (warm.length >= 3) {
  const perMillion = slope(warm) * 1e6
  const growth = warm.at(-1)[1] - warm[0][1]
  const { format } = new Intl.NumberFormat('en-US', { maximumFractionDigits: 0 })
  console.log(
    `resident memory: ${format(perMillion)} bytes per million frames (regression over ${warm.length} samples), ${format(growth)} from the first to the last`,
  )
  // A regression over a short run tells little.
  isLeaking = growth > maxGrowth || (frames >= 4_000_000 && perMillion > maxSlope)
  if (isLeaking)
    console.log(
      `more than ${format(maxSlope)} per million or ${format(maxGrowth)} in all: something is kept`,
    )
}
for (const defect of defects) console.log('unhandled rejection:', defect)
const isClean = defects.length === 0 && !isLeaking
console.log(
  `${isClean ? 'nothing found' : 'FAILED'} in ${frames} frames, ${seconds()} s, seed ${seed}`,
)
process.exit(isClean ? 0 : 1)

/** Least squares. */
function slope(points) {
  const mean = (index) => points.reduce((sum, point) => sum + point[index], 0) / points.length
  const [x, y] = [mean(0), mean(1)]
  const top = points.reduce((sum, point) => sum + (point[0] - x) * (point[1] - y), 0)
  return top / points.reduce((sum, point) => sum + (point[0] - x) ** 2, 0)
}
