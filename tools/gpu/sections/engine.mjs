/**
 * The engine of @kvx/shm on real GPUs, two processes each: plans of all kinds, what the processes see, aborts, kills, a child that was
 * forked, and speed. With one GPU what needs two is left out, and said to be. KVX_SUITE_PARTS=plans,speed chooses;
 * KVX_SUITE_QUICK=1 does less of each.
 */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { eachCopy } from '@kvx/contract'
import { runTransferBench } from '@kvx/bench'
import { gpus } from '@kvx/native'

const quick = process.env.KVX_SUITE_QUICK === '1'
const MiB = 2 ** 20
const path = (name) => fileURLToPath(new URL(name, import.meta.url))
const testAddon = (name) => path(`../../../packages/shm/test/fork/build/Release/${name}.node`)
const forkAddon = testAddon('fork')

const found = await gpus()
const two = found.list.length > 1
const places = two ? ['cpu', 0, 1] : ['cpu', 0]
const other = two ? 1 : 0
/** Whose memory is written to while somebody is killed. */
const ends = two ? [1] : [0, 'cpu']

const running = new Set()
/** An engine in a process of its own. */
async function start(memories, { env = {}, unshare } = {}) {
  const options = { env: { ...process.env, ...env }, serialization: 'advanced' }
  if (unshare !== undefined) {
    const [execPath, ...execArgv] = ['unshare', ...unshare, process.execPath]
    Object.assign(options, { execPath, execArgv })
  }
  const child = fork(path('../engine-process.mjs'), [JSON.stringify(memories)], options)
  running.add(child)
  const exited = once(child, 'exit').then((how) => {
    running.delete(child)
    return how
  })
  const next = async () => {
    const [{ answer, error }] = await Promise.race([
      once(child, 'message'),
      exited.then(([code, signal]) => {
        throw new Error(`A process ended: ${signal ?? `code ${code}`}.`)
      }),
    ])
    if (error !== undefined) throw Object.assign(new Error(error.message), { code: error.code })
    return answer
  }
  const address = await next()
  return {
    child,
    address,
    ask(action, fields = {}) {
      const answered = next()
      child.send({ do: action, ...fields })
      return answered
    },
    async kill() {
      child.kill('SIGKILL')
      await exited
    },
  }
}
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL')
})

async function pair(from, to, bytes, options = {}) {
  const owner = await start([{ place: to, bytes }], options.owner)
  const writer = await start([{ place: from, bytes, fill: 3 }], options.writer)
  await writer.ask('connect', { peer: owner.address })
  const end = () => Promise.all([writer.kill(), owner.kill()])
  return { owner, writer, end }
}

const random = (() => {
  let state = 1
  return (below) => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
})()

/** Lanes between any regions, over disjoint parts of each destination. */
function randomPlan(bytes) {
  const ends = places.map(() => 0)
  const pages = 1 + random(64)
  const rows = Array.from({ length: 1 + random(24) }, () => {
    const [source, destination] = [random(places.length), random(places.length)]
    const runBytes = [1, 3, 8, 16, 48, 272, 1024, 4096, 16384][random(9)]
    const [runs, gap] = [1 + random(3), random(2) * 16]
    const stride = runBytes + gap
    const page = stride * runs
    const base = Math.ceil(ends[destination] / 16) * 16
    if (base + page * pages > bytes) return []
    ends[destination] = base + page * pages
    return [source, destination, random(64) * 16, base, page, page, runBytes, runs, stride, stride]
  }).filter((row) => row.length > 0 && row[2] + row[4] * pages <= bytes)
  const order = Array.from({ length: pages }, (_, i) => i)
  for (let i = pages - 1; i > 0; i--) {
    const j = random(i + 1)
    ;[order[i], order[j]] = [order[j], order[i]]
  }
  return {
    lanes: rows.flat(),
    groups: order.flatMap((to, from) => [from, to, 1]),
    blocks: [0, pages, 0, rows.length],
  }
}

/** One question at a time: answers do not say which one is theirs. */
async function contents(engine) {
  const all = []
  for (const region of places.keys()) {
    all.push(Buffer.from(await engine.ask('bytes', { region }), 'base64'))
  }
  return all
}

const parts = {
  async plans() {
    const bytes = 8 * MiB
    const memories = places.map((place) => ({ place, bytes }))
    const [owner, writer] = [await start(memories), await start(memories)]
    for (const region of places.keys()) await writer.ask('fill', { region, seed: region * 11 })
    await writer.ask('connect', { peer: owner.address })
    const sources = await contents(writer)
    const wanted = await contents(owner)
    const count = quick ? 10 : 100
    let moved = 0
    for (let i = 0; i < count; i++) {
      const plan = randomPlan(bytes)
      const typed = {
        lanes: Float64Array.from(plan.lanes),
        groups: Int32Array.from(plan.groups),
        blocks: Int32Array.from(plan.blocks),
      }
      eachCopy(typed, (from, source, to, destination, length) => {
        wanted[to].set(sources[from].subarray(source, source + length), destination)
      })
      moved += await writer.ask('write', plan)
      const landed = await contents(owner)
      for (const [region, place] of places.entries()) {
        if (!landed[region].equals(wanted[region]))
          throw new Error(`Plan ${i} is wrong in ${place}.`)
      }
    }
    await Promise.all([writer.kill(), owner.kill()])
    return `${count} plans, ${moved} bytes, every byte compared`
  },

  async visible() {
    if (!two) return 'left out: one GPU'
    // What each sees, and what it calls the GPU on which its memory lies.
    for (const [writes, from, owns, to] of [
      ['0,1', 0, '0,1', 1],
      ['0,1', 1, '0,1', 0],
      ['1,0', 0, '0,1', 0],
      ['0', 0, '1', 0],
      ['1', 0, '0', 0],
      ['0', 0, '0,1', 1],
      ['0,1', 0, '1', 0],
    ]) {
      const options = {
        writer: { env: { CUDA_VISIBLE_DEVICES: writes } },
        owner: { env: { CUDA_VISIBLE_DEVICES: owns } },
      }
      const { owner, writer, end } = await pair(from, to, 4 * MiB, options)
      await writer.ask('write', wholePlan(4 * MiB))
      await expectAll(owner, 3)
      await end()
    }
    return 'both see both, in the same and in another order; each sees its own alone; one sees both: every byte right'
  },

  async namespaces() {
    const results = []
    for (const flags of [['-i'], ['-u'], ['-i', '-u', '-m']]) {
      const { owner, writer, end } = await pair(0, other, 4 * MiB, { writer: { unshare: flags } })
      await writer.ask('write', wholePlan(4 * MiB))
      await expectAll(owner, 3)
      await end()
      results.push(`${flags.join(' ')}: every byte right`)
    }
    // By design: a pidfd means nothing in another PID namespace, and the socket is the network namespace's.
    // CUDA finds no GPU where /proc is another namespace's, and unshare has a child that must end with it.
    for (const flags of [['-n'], ['-p', '-f', '--mount-proc', '--kill-child']]) {
      const refused = await pair(0, other, 4 * MiB, { writer: { unshare: flags } }).then(
        () => undefined,
        (error) => error,
      )
      if (refused?.code !== 'ERR_KVX_CONNECT_FAILED')
        throw new Error(`${flags.join(' ')}: ${refused}`)
      results.push(`${flags.join(' ')}: refused (${refused.message})`)
    }
    return results.join('; ')
  },

  async after() {
    const bytes = 64 * MiB
    const { owner, writer, end } = await pair(0, other, bytes)
    const fields = { addon: testAddon('stream'), device: 0, bytes }
    const once = await writer.ask('writeAfterStream', { ...fields, byte: 5, times: 1 })
    await expectAll(owner, 5)
    const many = await writer.ask('writeAfterStream', {
      ...fields,
      byte: 9,
      times: quick ? 20 : 2000,
    })
    await expectAll(owner, 9)
    await end()
    return `after a stream that sets the source once ${once.toFixed(2)} ms, many times ${many.toFixed(2)} ms: what it left is what arrived`
  },

  async aborts() {
    const { owner, writer, end } = await pair(0, other, 64 * MiB)
    const ends = await writer.ask('aborts', { count: quick ? 50 : 1000, bytes: 64 * MiB })
    if (ends.other.length > 0) throw new Error(ends.other[0])
    if (ends.aborted === 0) throw new Error('All writes were done before they were cancelled.')
    await writer.ask('fill', { region: 0, fill: 9 })
    await writer.ask('write', wholePlan(64 * MiB))
    await expectAll(owner, 9)
    await writer.ask('closeLink')
    await owner.ask('fence', { generation: writer.address.generation, ms: 5000 })
    await end()
    return `${ends.aborted} aborted, ${ends.done} had been posted, and were done; the next is right, and the closed link is fenced at once`
  },

  async writers() {
    const count = quick ? 3 : 30
    const times = []
    for (let i = 0; i < count; i++) {
      const to = ends[i % ends.length]
      const { owner, writer, end } = await pair(0, to, 64 * MiB)
      await writer.ask('writeOn', { bytes: 64 * MiB })
      await new Promise((resolve) => setTimeout(resolve, random(20)))
      const fenced = owner.ask('fence', { generation: writer.address.generation, ms: 30_000 })
      const killed = performance.now()
      await writer.kill()
      await fenced
      times.push(performance.now() - killed)
      // Memory given out again: what lands from now on would show.
      await owner.ask('fill', { region: 0, fill: 8 })
      await new Promise((resolve) => setTimeout(resolve, 30))
      await expectAll(owner, 8)
      await end()
    }
    times.sort((a, b) => a - b)
    return `${count} writers killed: fenced after ${times[0].toFixed(0)} to ${times.at(-1).toFixed(0)} ms, no byte after it`
  },

  async owners() {
    const count = quick ? 3 : 30
    const times = []
    for (let i = 0; i < count; i++) {
      const { owner, writer, end } = await pair(0, ends[i % ends.length], 64 * MiB)
      await writer.ask('writeOn', { bytes: 64 * MiB })
      const killed = performance.now()
      await owner.kill()
      const error = await writer.ask('write', wholePlan(64 * MiB)).catch((cause) => cause)
      if (error.code !== 'ERR_KVX_PEER_LOST')
        throw new Error(`It ended with ${error.code}: ${error.message}`)
      await writer.ask('closeLink')
      await writer.ask('close')
      times.push(performance.now() - killed)
      await end()
    }
    times.sort((a, b) => a - b)
    return `${count} owners killed: lost and closed after ${times[0].toFixed(0)} to ${times.at(-1).toFixed(0)} ms`
  },

  async forked() {
    if (!existsSync(forkAddon)) return 'left out: packages/shm/test/fork is not built'
    const { owner, writer, end } = await pair(0, other, 64 * MiB)
    await writer.ask('writeOn', { bytes: 64 * MiB })
    const child = await writer.ask('fork', { addon: forkAddon })
    const { generation } = writer.address
    await writer.kill()
    const early = await owner.ask('fence', { generation, ms: 1000 }).catch((cause) => cause)
    if (early?.code !== 'ERR_KVX_ABORTED') throw new Error('The fence did not wait for the child.')
    process.kill(child, 'SIGKILL')
    const ended = performance.now()
    await owner.ask('fence', { generation, ms: 30_000 })
    const took = performance.now() - ended
    await owner.ask('fill', { region: 0, fill: 8 })
    await new Promise((resolve) => setTimeout(resolve, 100))
    await expectAll(owner, 8)
    await end()
    return `waited for the child, and was there ${took.toFixed(0)} ms after it; no byte after it`
  },

  async speed() {
    const many = { inFlight: 8, sizes: [64 * MiB], note: ', 8 at once' }
    const cases = [
      { memory: [0, 0] },
      { memory: [0, 0], ...many },
      ...(two
        ? [
            { memory: [0, 1] },
            { memory: [0, 1], ...many },
            { memory: [0, 1], note: ', 64 SMs', backendOptions: { copySmsPeer: 64 } },
            {
              ...{ memory: [0, 1], ...many, note: ', 64 SMs, 8 at once' },
              backendOptions: { copySmsPeer: 64 },
            },
          ]
        : []),
      { memory: [0, 'cpu'] },
      { memory: [0, 'cpu'], note: ', 1 SM', backendOptions: { copySmsToHost: 1 } },
      { memory: [0, 'cpu'], note: ', lanes together', lanesTogether: true },
      { memory: ['cpu', 0] },
      { memory: ['cpu', 'cpu'] },
    ]
    const reports = []
    for (const { note = '', ...options } of cases) {
      const big = options.memory.some((place) => place !== 'cpu')
      const report = await runTransferBench({
        ...{ backend: 'shm', from: import.meta.url },
        runs: [4 * 1024, 16 * 1024, 64 * 1024, MiB],
        sizes: quick || !big ? [64 * MiB] : [64 * MiB, 1024 * MiB],
        repetitions: quick ? 3 : 15,
        ...options,
      })
      reports.push({ ...report, note })
    }
    const wrong = reports.find(({ ok }) => !ok)
    if (wrong) throw new Error(`Wrong bytes from ${wrong.memory.join(' to ')}.`)
    return { reports }
  },
}

function wholePlan(bytes) {
  return {
    lanes: [0, 0, 0, 0, bytes, bytes, bytes, 1, bytes, bytes],
    groups: [0, 0, 1],
    blocks: [0, 1, 0, 1],
  }
}

async function expectAll(engine, byte) {
  const content = Buffer.from(await engine.ask('bytes', { region: 0 }), 'base64')
  const at = content.findIndex((each) => each !== byte)
  if (at >= 0) throw new Error(`Byte ${at} is ${content[at]}, not ${byte}.`)
}

export async function run() {
  if (found.list.length === 0) throw new Error(`There is no GPU: ${found.reason}.`)
  const wanted = process.env.KVX_SUITE_PARTS?.split(',') ?? Object.keys(parts)
  const results = []
  for (const name of wanted) {
    const started = performance.now()
    const part = parts[name] ?? (() => Promise.reject(new Error('There is no such part.')))
    const result = await part().then(
      (said) => ({ part: name, ok: true, ...(typeof said === 'string' ? { said } : said) }),
      (error) => ({ part: name, ok: false, said: `${error.code ?? ''} ${error.message}`.trim() }),
    )
    for (const child of running) child.kill('SIGKILL')
    result.seconds = Math.round((performance.now() - started) / 100) / 10
    results.push(result)
  }
  return {
    passed: results.every(({ ok }) => ok),
    lines: [...results.map(lineOf), '', ...speedTable(results)],
    data: { results },
  }
}

const lineOf = ({ part, ok, seconds, said = 'measured' }) =>
  `- ${part}: ${ok ? '' : '**WRONG** '}${said} (${seconds} s)`

const sizeText = (bytes) => (bytes >= MiB ? `${bytes / MiB} MiB` : `${bytes / 1024} KiB`)

function speedTable(results) {
  const rows = results
    .flatMap(({ reports = [] }) => reports)
    .flatMap(({ memory, note, rows }) => rows.map((row) => ({ memory, note, ...row })))
  if (rows.length === 0) return []
  const text = ({ memory, note, size, run, median, least, most, share, callMicroseconds }) => [
    `${memory.join(' → ')}${note}`,
    sizeText(size),
    run === undefined ? 'one piece' : sizeText(run),
    median.toFixed(1),
    `${least.toFixed(1)} … ${most.toFixed(1)}`,
    run === undefined ? '' : share.toFixed(2),
    callMicroseconds.toFixed(0),
  ]
  return [
    '| from → to | bytes of a write | run | GB/s median | least … most | of one large copy | JavaScript µs |',
    '| --- | ---: | ---: | ---: | ---: | ---: | ---: |',
    ...rows.map((row) => `| ${text(row).join(' | ')} |`),
  ]
}
