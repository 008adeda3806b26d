// `npm run bench --workspace @kvx/core [-- --rounds N]`
//
// What the control plane costs for one request: processor time of both processes and messages, with real managers,
// real sockets and pages so small that bytes hardly count, at 1, 8 and 64 concurrent rooms. Beside it, in the
// same run, the same messages through nothing but zeromq with CURVE and the same codec. The two alternate; the ratio
// is taken within each round, since the machine changes between rounds.
// Needs the built packages of this repository (`npm run setup`).
import { fork } from 'node:child_process'
import { cpus } from 'node:os'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const { values } = parseArgs({ options: { rounds: { type: 'string', default: '11' } } })
const rounds = Math.max(3, Number(values.rounds))
const concurrency = [1, 8, 64]
const requestsOf = (lanes) => 320 * Math.min(lanes, 8)

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
async function measure(kind, lanes, requests) {
  const firstRoom = rooms
  rooms += requests
  await both('begin')
  const started = performance.now()
  await both('run', { kind, lanes, requests, firstRoom })
  const seconds = (performance.now() - started) / 1000
  const [p, d] = await both('end')
  const each = (object) =>
    Object.fromEntries(Object.entries(object).map(([key, value]) => [key, value / requests]))
  return {
    perSecond: requests / seconds,
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
await decode.tell('open', await prefill.tell('open'))
await measure('kvx', 8, 800) // connects, warms up

// One request alone: these are the messages that the peer will send too.
await both('record')
await measure('kvx', 1, 1)
const [fromPrefill, fromDecode] = await both('recorded')
await prefill.tell('play', { own: fromPrefill, others: fromDecode })
await decode.tell('play', { own: fromDecode, others: fromPrefill })
await measure('bare', 8, 800)

console.log(
  `one request alone: ${fromDecode.length} messages from decode, ${fromPrefill.length} from prefill`,
)
console.log(
  `${rounds} interleaved rounds; median [least … greatest]; µs of processor time per request\n`,
)

const samples = new Map(concurrency.map((lanes) => [lanes, []]))
for (let round = 0; round < rounds; round++) {
  for (const lanes of concurrency) {
    const sample = {}
    for (const kind of round % 2 === 0 ? ['kvx', 'bare'] : ['bare', 'kvx'])
      sample[kind] = await measure(kind, lanes, requestsOf(lanes))
    samples.get(lanes).push(sample)
  }
}

for (const [lanes, list] of samples) {
  const of = (pick) => list.map(pick)
  console.log(
    `${lanes} concurrent room${lanes > 1 ? 's' : ''}, ${requestsOf(lanes)} requests a round`,
  )
  for (const kind of ['kvx', 'bare']) {
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
      `        messages from decode ${spread(
        of((s) => s[kind].fromDecode),
        2,
      )}, from prefill ${spread(
        of((s) => s[kind].fromPrefill),
        2,
      )}; ${spread(
        of((s) => s[kind].perSecond),
        0,
      )} requests/s`,
    )
  }
  console.log(
    `  ratio kvx / bare, both processes: ${spread(
      of(({ kvx, bare }) => kvx.all / bare.all),
      2,
    )}\n`,
  )
}

const [sent, arrived] = await both('moved', { lanes: 64 })
if (sent !== arrived) throw new Error('The bytes did not arrive.')
await both('close').catch(() => undefined)
