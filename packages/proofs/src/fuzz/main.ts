/**
 * `npm run fuzz`: mutated and random frames against the real code, before and after the handshake.
 * Ends with 0 when nothing was found.
 */
import { inspect } from 'node:util'
import { anySeed, exitCode, mostSeed, readFlags, whole } from '../command.ts'
import { MemoryWatch } from './memory.ts'
import { fuzzReducers } from './reducers.ts'
import { fuzzSockets } from './sockets/sockets.ts'

const help = `npm run fuzz [-- OPTIONS]

  --frames N    mutated and random frames in all (10000000)
  --seed S      which ones (random); a seed replays its frames exactly, except those that go through sockets
  --sockets N   how many of them go through real sockets (one in 200)
  --hash N      compare the whole state around every N-th refused frame (1 up to 200000 frames, else 64)
  --stack       errors tell where they arose (slow; to look into a finding)`

const print = (text: string) => process.stdout.write(`${text}\n`)

async function main(): Promise<number> {
  const values = readFlags({
    frames: { type: 'string', default: '10000000' },
    seed: { type: 'string', default: String(anySeed()) },
    sockets: { type: 'string' },
    hash: { type: 'string' },
    stack: { type: 'boolean', default: false },
  })
  if (values.help) {
    print(help)
    return 0
  }
  const frames = whole('frames', values.frames)
  const seed = whole('seed', values.seed, { most: mostSeed })
  const mostSockets = whole('sockets', values.sockets ?? String(Math.ceil(frames / 200)))
  const sockets = Math.min(frames, mostSockets)
  const everyHash = whole('hash', values.hash ?? (frames <= 200_000 ? '1' : '64'), { least: 1 })
  // Millions of refusals are made; where each was made is of no interest.
  Error.stackTraceLimit = values.stack ? 50 : 0
  const started = performance.now()
  const seconds = () => ((performance.now() - started) / 1_000).toFixed(0)
  const defects: unknown[] = []
  process.on('unhandledRejection', (reason) => defects.push(reason))

  print(
    `seed ${String(seed)}, ${String(frames)} frames, ${String(sockets)} of them through sockets`,
  )
  const memory = new MemoryWatch()
  let shown = -Infinity
  const counts = fuzzReducers({
    seed,
    frames: frames - sockets,
    everyHash,
    onProgress(done) {
      const bytes = memory.sample(done)
      if (performance.now() - shown < 10_000) return
      shown = performance.now()
      print(`${String(done)} frames, ${seconds()} s, ${(bytes / 2 ** 20).toFixed(1)} MiB`)
    },
  })
  const reached = await fuzzSockets({ seed, frames: sockets })

  for (const [name, count] of Object.entries({ ...counts, ...reached }).sort())
    print(`${String(count).padStart(10)}  ${name}`)
  const { isLeaking, lines } = memory.judge(frames)
  for (const line of lines) print(line)
  for (const defect of defects) print(`unhandled rejection: ${inspect(defect)}`)
  const isClean = defects.length === 0 && !isLeaking
  print(
    `${isClean ? 'nothing found' : 'FAILED'} in ${String(frames)} frames, ${seconds()} s, seed ${String(seed)}`,
  )
  return isClean ? 0 : 1
}

// Sockets and timers of what was fuzzed may still be there.
process.exit(await exitCode(main))
