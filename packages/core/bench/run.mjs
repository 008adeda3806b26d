// `npm run bench --workspace @kvx/core [-- --rounds N] [--cases PEERSxROOMS,…]`
//
// What the control plane costs for one request: processor time of both processes and frames, with real managers,
// real sockets and pages so small that bytes hardly count, with 1 to 8,192 rooms that live at once over one peer, and
// 64 for each of 64 peers. Beside it, in the same run, the same messages of one peer through nothing but zeromq with
// CURVE and the same codec. The two alternate; the ratio is taken within each round, since the machine changes between
// rounds.
// Needs the built packages of this repository (`npm run setup`).
import { fork } from 'node:child_process'
import { cpus } from 'node:os'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '11' },
    cases: { type: 'string', default: '1x1,1x8,1x64,1x512,1x2048,1x8192,64x4096' },
  },
})
const rounds = Math.max(1, Number(values.rounds))
/** Decode managers, and rooms that live at once, of all of them together. */
const cases = values.cases.split(',').map((text) => {
  const [, peers, lanes] = /^(\d+)x(\d+)$/.exec(text) ?? []
  if (peers === undefined) throw new Error(`--cases must be like 1x512,64x4096, got '${text}'.`)
  return { peers: Number(peers), lanes: Number(lanes) }
})
const mostLanes = Math.max(64, ...cases.map(({ lanes }) => lanes))
const mostPeers = Math.max(...cases.map(({ peers }) => peers))
const requestsOf = (lanes) => Math.max(320 * Math.min(lanes, 8), 2 * lanes)

class Side {
  #child
  #waiting = new Map()
  #count = 0

  constructor(role) {
    this.#child = fork(fileURLToPath(new URL('side.mjs', import.meta.url)), [role])
    this.#child.on('message', ({ id, result, error }) => {
      const { resolve, reject } = this.#waiting.get(id)
      this.#waiting.delete(id)
      if (error === undefined) resolve(result)
      else reject(new Error(error))
    })
    this.#child.on('exit', (code) => {
      for (const { reject } of this.#waiting.values()) reject(new Error(`${role} ended: ${code}`))
    })
  }

  tell(command, rest = {}) {
    const id = this.#count++
    this.#child.send({ command, id, ...rest })
    return new Promise((resolve, reject) => this.#waiting.set(id, { resolve, reject }))
  }
}

const [prefill, decode] = [new Side('prefill'), new Side('decode')]
const both = (command, rest) =>
  Promise.all([prefill.tell(command, rest), decode.tell(command, rest)])

let rooms = 0
/** Per request: µs by side and thread, messages by side; and requests per second. */
async function measure(kind, { lanes, peers = 1 }, requests) {
  const firstRoom = rooms
  rooms += requests
  await both('begin')
  const started = performance.now()
  const [, latency] = await both('run', { kind, lanes, peers, requests, firstRoom })
  const seconds = (performance.now() - started) / 1000
  const [p, d] = await both('end')
  const each = (object) =>
    Object.fromEntries(Object.entries(object).map(([key, value]) => [key, value / requests]))
  return {
    perSecond: requests / seconds,
    latency,
    prefill: each(p.cpu),
    decode: each(d.cpu),
    all: (p.cpu.all + d.cpu.all) / requests,
    fromPrefill: p.messages / requests,
    fromDecode: d.messages / requests,
  }
}

const quantile = (numbers, q) => {
  const sorted = [...numbers].sort((a, b) => a - b)
  return sorted[Math.round((sorted.length - 1) * q)]
}
const spread = (numbers, digits) => {
  const [low, median, high] = [0, 0.5, 1].map((q) => quantile(numbers, q).toFixed(digits))
  return `${median} [${low} … ${high}]`
}

console.log(`node ${process.version}, ${cpus().length} × ${cpus()[0]?.model ?? 'unknown CPU'}`)
const room = { lanes: mostLanes, peers: mostPeers }
await decode.tell('open', { ...room, ...(await prefill.tell('open', room)) })
// Connects, warms up.
await measure('kvx', { lanes: 8 }, 800)
await measure('kvx', { lanes: 4 * mostPeers, peers: mostPeers }, 4 * mostPeers)

// One request alone: these are the messages that the peer will send too.
await both('record')
await measure('kvx', { lanes: 1 }, 1)
const [fromPrefill, fromDecode] = await both('recorded')
await prefill.tell('play', { own: fromPrefill, others: fromDecode })
await decode.tell('play', { own: fromDecode, others: fromPrefill })
await measure('bare', { lanes: 8 }, 800)

console.log(
  `one request alone: ${fromDecode.length} messages from decode, ${fromPrefill.length} from prefill`,
)
console.log(
  `${rounds} interleaved rounds; median [least … greatest]; µs of processor time per request\n`,
)

const samples = new Map(cases.map((one) => [one, []]))
for (let round = 0; round < rounds; round++) {
  for (const one of cases) {
    const sample = {}
    const kinds = round % 2 === 0 ? ['kvx', 'bare'] : ['bare', 'kvx']
    for (const kind of one.peers === 1 ? kinds : ['kvx'])
      sample[kind] = await measure(kind, one, requestsOf(one.lanes))
    samples.get(one).push(sample)
  }
  process.stderr.write(`round ${round + 1} of ${rounds}\n`)
}

for (const [{ peers, lanes }, list] of samples) {
  const of = (pick) => list.map(pick)
  console.log(
    `${lanes} live room${lanes > 1 ? 's' : ''}, ${peers} peer${peers > 1 ? 's' : ''}, ${requestsOf(lanes)} requests a round`,
  )
  for (const kind of peers === 1 ? ['kvx', 'bare'] : ['kvx']) {
    const side = (name) => {
      const parts = ['js', 'zeromq', 'engine', 'rest']
        .map(
          (part) =>
            `${part} ${quantile(
              of((s) => s[kind][name][part]),
              0.5,
            ).toFixed(0)}`,
        )
        .join(', ')
      return `${name} ${spread(
        of((s) => s[kind][name].all),
        0,
      )} (${parts})`
    }
    console.log(`  ${kind.padEnd(5)} ${side('prefill')}`)
    console.log(`        ${side('decode')}`)
    console.log(
      `        frames from decode ${spread(
        of((s) => s[kind].fromDecode),
        2,
      )}, from prefill ${spread(
        of((s) => s[kind].fromPrefill),
        2,
      )}; ${spread(
        of((s) => s[kind].perSecond),
        0,
      )} requests/s; ms from receive to settled: p50 ${spread(
        of((s) => s[kind].latency.p50),
        1,
      )}, p99 ${spread(
        of((s) => s[kind].latency.p99),
        1,
      )}`,
    )
  }
  if (peers > 1) continue
  console.log(
    `  ratio kvx / bare, both processes: ${spread(
      of(({ kvx, bare }) => kvx.all / bare.all),
      2,
    )}\n`,
  )
}

// Every page of one peer once more: several peers took pages of other lanes.
await measure('kvx', { lanes: mostLanes }, mostLanes)
const [sent, arrived] = await both('moved')
if (sent !== arrived) throw new Error('The bytes did not arrive.')
await both('close').catch(() => undefined)
