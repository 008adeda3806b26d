// `npm run bench:cbor --workspace @kvx/core [-- --rounds N]`
//
// What the control plane's own CBOR costs, beside cbor-x (in JavaScript alone), Node's v8.serialize and JSON: µs of processor time to
// write and to read one message. The messages are those that two managers say for one request, as recorded from their sockets, and a
// `reserve` of 8,192 pages. Reading as kvx does it includes the walk over what arrives, by which hostile input is refused before
// anything is made of it; the others trust their input. JSON has neither byte strings nor bigints: they are written as base64 and as
// text, and stay so when they are read. Codecs take turns, round after round.
// Needs the built packages of this repository (`npm run setup`).
import { cpus } from 'node:os'
import { parseArgs } from 'node:util'
import { deserialize, serialize } from 'node:v8'
import { Encoder } from 'cbor-x'
import { decodeFrame, encodeMessage } from '../dist/control/codec.js'
import { Dealer, Router } from '../dist/control/zeromq.js'
import { openDecode, openPrefill } from './rooms.mjs'

const { values } = parseArgs({ options: { rounds: { type: 'string', default: '11' } } })
const rounds = Math.max(1, Number(values.rounds))

/** The first message of each kind that two managers say for one request. */
async function recorded() {
  const frames = []
  for (const socket of [Dealer, Router]) {
    const { send } = socket.prototype
    Object.defineProperty(socket.prototype, 'send', {
      value(parts) {
        // More parts than an address and a frame has libzmq's question whether a peer may come in.
        if (!Array.isArray(parts) || parts.length === 2) frames.push([parts].flat().at(-1))
        return send.call(this, parts)
      },
    })
  }
  const token = 'a token for the benchmark'
  const prefill = await openPrefill(token, 1)
  const decode = await openDecode(token, prefill.address, 1, 1)
  await Promise.all([prefill.request(0, 1n), decode.request(0, 1n, 1)])
  await decode.close()
  await prefill.close()
  const byKind = new Map()
  // One byte is the question whether a connection still exists.
  const whole = frames.filter(({ length }) => length > 1)
  for (const message of whole.flatMap((frame) => [...decodeFrame(frame)])) {
    // Those of the bootstrap service have a `kind`.
    if (message.k !== undefined && !byKind.has(message.k)) byKind.set(message.k, message)
  }
  return byKind
}

const spoken = await recorded()
const reserve = spoken.get('reserve')
const largePages = Buffer.from(Int32Array.from({ length: 8_192 }, (_, i) => i * 7).buffer)
const messages = new Map([...spoken])
messages.set('reserve, 8,192 pages', { ...reserve, pages: { kv: largePages } })

const cborX = new Encoder({ useRecords: false, tagUint8Array: false, mapsAsObjects: true })
/** Byte strings are Buffers here, whose own toJSON would make an array of numbers of each. */
const plain = (value) => {
  if (typeof value === 'bigint') return String(value)
  if (value instanceof Uint8Array)
    return Buffer.from(value.buffer, value.byteOffset, value.length).toString('base64')
  if (Array.isArray(value)) return value.map(plain)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, plain(inner)]))
}
const codecs = {
  kvx: { write: (message) => encodeMessage(message), read: (bytes) => [...decodeFrame(bytes)][0] },
  'cbor-x': { write: (message) => cborX.encode(message), read: (bytes) => cborX.decode(bytes) },
  v8: { write: serialize, read: deserialize },
  JSON: {
    write: (message) => Buffer.from(JSON.stringify(plain(message))),
    read: (bytes) => JSON.parse(bytes.toString()),
  },
}

const microseconds = (work, times) => {
  const before = process.cpuUsage()
  for (let i = 0; i < times; i++) work()
  const { user, system } = process.cpuUsage(before)
  return (user + system) / times
}

const works = [...messages].flatMap(([kind, message]) =>
  Object.entries(codecs).flatMap(([name, { write, read }]) => {
    const bytes = Buffer.from(write(message))
    return [
      ['write', () => write(message)],
      ['read', () => read(bytes)],
    ].map(([what, run]) => {
      microseconds(run, 5_000)
      const times = Math.max(20, Math.ceil(20_000 / Math.max(0.05, microseconds(run, 5_000))))
      return { kind, name, what, run, times, bytes: bytes.length, rounds: [] }
    })
  }),
)
for (let round = 0; round < rounds; round++) {
  for (const work of works) work.rounds.push(microseconds(work.run, work.times))
}

const quantile = (numbers, q) =>
  [...numbers].sort((a, b) => a - b)[Math.round((numbers.length - 1) * q)]
const digits = (number) => number.toFixed(number < 9.95 ? 2 : 0)
const spread = (numbers) => {
  const [low, median, high] = [0, 0.5, 1].map((q) => digits(quantile(numbers, q)))
  return `${median} [${low} … ${high}]`
}

console.log(`node ${process.version}, ${cpus().length} × ${cpus()[0]?.model ?? 'unknown CPU'}`)
console.log(
  `${rounds} interleaved rounds; median [least … greatest]; kvx in µs of processor time, the others as a multiple of it in the same round\n`,
)
const others = Object.keys(codecs).slice(1)
const head = ['message', 'bytes', 'what', 'kvx, µs', ...others.map((name) => `${name} / kvx`)]
console.log(`| ${head.join(' | ')} |\n|${head.map(() => ' --- |').join('')}`)
for (const kind of messages.keys()) {
  for (const what of ['write', 'read']) {
    const of = (name) =>
      works.find((work) => work.kind === kind && work.name === name && work.what === what)
    const own = of('kvx')
    const ratios = others.map((name) => spread(of(name).rounds.map((us, i) => us / own.rounds[i])))
    const cells = [kind, own.bytes.toLocaleString('en'), what, spread(own.rounds), ...ratios]
    console.log(`| ${cells.join(' | ')} |`)
  }
}
