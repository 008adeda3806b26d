/**
 * Other libraries that move caches, on the same work as kvx in the same run: NIXL (UCX) and Mooncake, from peers.tar.xz of tools/gpu/peers.mjs,
 * which run.sh unpacks, and one large copy of the driver, which is the limit. Each pair is two processes (peers/side.py). Rounds take all of
 * them in turn; every byte is compared by its owner in every round. What cannot run is a row with its reason. Needs python3 (or the
 * variable PYTHON), 3.12, with torch. Without a GPU it is the host's memory alone.
 */
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { runTransferBench } from '@kvx/bench'
import { gpus } from '@kvx/native'

const KiB = 1024
const MiB = 2 ** 20
const runs = [16 * KiB, 64 * KiB, MiB, 64 * MiB]
const rounds = 5
const repetitions = 3
/** After this many milliseconds no new round begins, and after the second nothing is waited for. */
const lastRound = 105_000
const end = 140_000
const side = fileURLToPath(new URL('../peers/side.py', import.meta.url))

const contenders = [
  { name: 'one large copy', engine: 'copy' },
  { name: 'NIXL', engine: 'nixl' },
  {
    name: 'Mooncake, NVLink',
    engine: 'mooncake',
    env: { MC_INTRANODE_NVLINK: '1' },
    gpuOnly: true,
  },
  { name: 'Mooncake, TCP', engine: 'mooncake', env: { MC_FORCE_TCP: '1' }, slow: true },
]

export async function run({ fake }) {
  const count = fake ? 0 : (await gpus()).list.length
  const paths = [['0', '0'], ...(count > 1 ? [['0', '1']] : []), ['0', 'cpu']]
  const started = performance.now()
  const left = () => end - (performance.now() - started)
  const pairs = (count > 0 ? paths : [['cpu', 'cpu']]).flatMap((path) => [
    kvxPair('kvx', path, left),
    ...(path[1] === '1' ? [kvxPair('kvx, 64 SMs', path, left, { copySmsPeer: 64 })] : []),
    ...contenders
      .filter(({ gpuOnly }) => !gpuOnly || count > 0)
      .map((contender) => peerPair(contender, path, left)),
  ])
  try {
    await Promise.all(pairs.map((pair) => pair.open()))
    let done = 0
    for (; done < rounds && performance.now() - started < lastRound; done++) {
      for (const pair of pairs) await pair.round()
    }
    return reportOf(pairs, done)
  } finally {
    for (const pair of pairs) pair.close()
  }
}

/** Host memory and TCP are too slow for 1 GiB in 16 KiB within the time of this section. */
function sizesOf(path, slow) {
  return slow || path.includes('cpu') ? [64 * MiB] : [64 * MiB, 1024 * MiB]
}

/** What every pair has: where, rows by size and run, and why there are no (more) rows. */
function emptyPair(name, path) {
  const rows = new Map()
  return {
    name,
    path,
    rows,
    wrong: false,
    reason: undefined,
    add({ size, run, speed, cores }) {
      const key = `${size}/${run}`
      if (!rows.has(key)) rows.set(key, { size, run, speeds: [], cores: [] })
      rows.get(key).speeds.push(speed)
      rows.get(key).cores.push(cores)
    },
  }
}

function kvxPair(name, path, left, backendOptions = {}) {
  const pair = emptyPair(name, path)
  const memory = path.map((place) => (place === 'cpu' ? 'cpu' : Number(place)))
  return Object.assign(pair, {
    async open() {},
    async round() {
      if (pair.reason !== undefined) return
      try {
        const { rows, ok } = await runTransferBench({
          ...{ backend: 'shm', from: import.meta.url, backendOptions, memory, runs, repetitions },
          sizes: sizesOf(path, false),
          signal: AbortSignal.timeout(Math.ceil(Math.max(1, Math.min(30_000, left())))),
        })
        pair.wrong ||= !ok
        for (const { size, run = size, median: speed } of rows) pair.add({ size, run, speed })
      } catch (error) {
        pair.reason = `${error.code ?? ''} ${error.message}`.trim()
      }
    },
    close() {},
  })
}

function peerPair({ name, engine, env, slow }, path, left) {
  const pair = emptyPair(name, path)
  const [from, to] = path
  const sizes = sizesOf(path, slow)
  const bytes = Math.max(...sizes)
  const limit = engine === 'copy'
  const sides = []
  const guarded = async (work) => {
    if (pair.reason !== undefined) return
    try {
      await work()
    } catch (error) {
      pair.reason = error.message
      pair.close()
    }
  }
  return Object.assign(pair, {
    open: () =>
      guarded(async () => {
        if (!limit && process.env.KVX_PEERS === undefined) {
          throw new Error('peers.tar.xz is not beside the pack')
        }
        const places = limit ? [from] : [from, to]
        for (const place of places) sides.push(startSide(engine, place, bytes, env, left))
        const addresses = await Promise.all(sides.map((each) => each.opened))
        await sides[0].ask('connect', { address: limit ? { place: to } : addresses[1] })
      }),
    round: () =>
      guarded(async () => {
        const [writer, owner] = sides
        for (const size of sizes) {
          const cases = limit ? [size] : runs.filter((run) => run <= size)
          for (const run of cases) {
            await owner?.ask('wipe')
            const fields = { size, run, repetitions, seconds: 0.5 }
            const measured = await writer.ask('measure', fields)
            const right = owner === undefined || (await owner.ask('right', { size, run }))
            if (!right) pair.wrong = true
            pair.add({ size, run, ...measured })
          }
        }
      }),
    close() {
      for (const each of sides) each.kill()
    },
  })
}

const running = new Set()
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL')
})

/** A process of peers/side.py. */
function startSide(engine, place, bytes, env, left) {
  const folder = process.env.KVX_PEERS ?? ''
  const libraries =
    engine === 'mooncake' ? [join(folder, 'lib'), join(folder, 'nixl_cu13.libs')] : []
  const child = spawn(process.env.PYTHON ?? 'python3', [side, engine, place, String(bytes)], {
    stdio: ['pipe', 'pipe', 'pipe', 'pipe'],
    env: {
      ...process.env,
      ...env,
      PYTHONDONTWRITEBYTECODE: '1',
      PYTHONPATH: [folder, process.env.PYTHONPATH].filter(Boolean).join(':'),
      LD_LIBRARY_PATH: [...libraries, process.env.LD_LIBRARY_PATH].filter(Boolean).join(':'),
    },
  })
  running.add(child)
  let said = ''
  const listen = (piece) => {
    said = (said + piece).slice(-2000)
  }
  child.stdout.on('data', listen)
  child.stderr.on('data', listen)
  child.stdin.on('error', () => undefined)
  const ended = new Promise((_, reject) => {
    child.once('error', reject)
    child.once('close', (code, signal) => {
      running.delete(child)
      const last = said.trim().split('\n').at(-1)
      reject(new Error(`a process ended (${signal ?? `code ${code}`}): ${last}`))
    })
  })
  ended.catch(() => undefined)
  const waiting = []
  createInterface({ input: child.stdio[3] }).on('line', (line) => {
    const { answer, error } = JSON.parse(line)
    const [resolve, reject] = waiting.shift() ?? []
    if (error === undefined) resolve?.(answer)
    else reject?.(new Error(error))
  })
  const answered = async (what, milliseconds) => {
    const limit = Math.max(1, Math.min(milliseconds, left()))
    let timer
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => {
        const seconds = Math.round(limit / 1000)
        reject(new Error(`no answer to ${what} within ${seconds} s`))
      }, limit)
    })
    const answer = new Promise((resolve, reject) => waiting.push([resolve, reject]))
    try {
      return await Promise.race([answer, ended, late])
    } finally {
      clearTimeout(timer)
    }
  }
  const opened = answered('open', 60_000)
  opened.catch(() => undefined)
  return {
    opened,
    ask(what, fields = {}) {
      child.stdin.write(`${JSON.stringify({ do: what, ...fields })}\n`)
      return answered(what, 20_000)
    },
    kill() {
      child.kill('SIGKILL')
    },
  }
}

const middle = (numbers) => [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)]
const sizeText = (bytes) => (bytes >= MiB ? `${bytes / MiB} MiB` : `${bytes / KiB} KiB`)

function reportOf(pairs, done) {
  const limits = new Map()
  for (const { name, path, rows } of pairs) {
    if (name !== 'one large copy') continue
    for (const { size, speeds } of rows.values()) limits.set(`${path}/${size}`, middle(speeds))
  }
  const found = pairs.map(({ name, path, rows, wrong, reason }) => ({
    ...{ name, path, wrong, reason },
    rows: [...rows.values()].map((row) => ({
      ...row,
      median: middle(row.speeds),
      share: middle(row.speeds) / limits.get(`${path}/${row.size}`),
    })),
  }))
  const lines = found.flatMap(({ name, path, rows, wrong, reason }) => {
    const place = found.findIndex((other) => String(other.path) === String(path))
    const measured = rows.map(({ size, run, speeds, median, share, cores }) => ({
      order: [place, size, run],
      cells: [
        ...[path.join(' → '), sizeText(size), run === size ? 'one piece' : sizeText(run), name],
        wrong ? '**WRONG BYTES**' : median.toPrecision(3),
        `${Math.min(...speeds).toPrecision(3)} … ${Math.max(...speeds).toPrecision(3)}`,
        Number.isNaN(share) ? '' : share.toPrecision(2),
        cores[0] === undefined ? '' : middle(cores).toFixed(1),
      ],
    }))
    if (reason === undefined) return measured
    const why = `not measured: ${clean(reason)}`
    const cells = [path.join(' → '), '', '', name, why, '', '', '']
    return [...measured, { order: [place, Infinity, 0], cells }]
  })
  const table = lines.sort(byOrder).map(({ cells }) => cells)
  const kvx = found.filter(({ name }) => name.startsWith('kvx'))
  return {
    passed: found.every(({ wrong }) => !wrong) && kvx.every(({ reason }) => reason === undefined),
    lines: [
      `${done} rounds that take all in turn; of each round the median of up to ${repetitions} writes after a warm-up, and of these the`,
      'median and the least … most. GB/s are 10^9 payload bytes per second, by the clock of the writer. 64 lanes, pages in random order on',
      'both sides, two processes; every byte of the others is compared by its owner in every round, of kvx a sample.',
      '',
      '- kvx: through Node, the engine of @kvx/shm with its defaults, from the call of write() until `done` has resolved.',
      '- NIXL 1.5.1 (nixl-cu13): UCX with its defaults, progress thread; descriptor lists and the transfer are prepared before, and not counted:',
      '  transfer(), then check_xfer_state() without a pause.',
      '- Mooncake 0.3.14 (mooncake-transfer-engine-cuda13): batch_transfer_sync_write(); MC_INTRANODE_NVLINK=1, or MC_FORCE_TCP=1.',
      '- one large copy: copy_ of torch on one stream of one process, pinned memory on the host: the driver’s copy, and the limit of the column.',
      '- TCP and paths to the host move 64 MiB only. cores: CPU time of the writing process by time.',
      '',
      '| from → to | bytes of a write | run | by | GB/s median | least … most | of one large copy | cores |',
      '| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: |',
      ...table.map((row) => `| ${row.join(' | ')} |`),
    ],
    data: { rounds: done, found },
  }
}

const clean = (text) => text.replaceAll(/[|\r\n]+/g, ' ').slice(0, 300)

/** By path, bytes and run; the reasons last. */
function byOrder({ order: a }, { order: b }) {
  const at = a.findIndex((each, i) => each !== b[i])
  return at < 0 ? 0 : a[at] < b[at] ? -1 : 1
}
