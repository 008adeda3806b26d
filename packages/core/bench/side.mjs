// One of the two processes of the benchmark: `side.mjs prefill|decode`, told what to do by run.mjs.
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { decodeFrame, encodeMessage } from '../dist/control/codec.js'
import { Dealer, Router } from '../dist/control/zeromq.js'
import { openBareDecode, openBarePrefill } from './bare.mjs'

import { openDecode, openPrefill } from './rooms.mjs'

const role = process.argv[2]
const token = 'a token for the benchmark'

let messages = 0
let recorded
for (const socket of [Dealer, Router]) {
  const { send } = socket.prototype
  Object.defineProperty(socket.prototype, 'send', {
    value(parts) {
      messages++
      recorded?.push(Array.isArray(parts) ? parts.at(-1) : parts)
      return send.call(this, parts)
    },
  })
}

/** Processor time in µs by thread: that of JavaScript, of zeromq, of the engine, and the rest. */
function cpu() {
  const times = { js: 0, zeromq: 0, engine: 0, rest: 0 }
  for (const task of readdirSync('/proc/self/task')) {
    const name = readFileSync(`/proc/self/task/${task}/comm`, 'utf8')
    const [ns] = readFileSync(`/proc/self/task/${task}/schedstat`, 'utf8').split(' ')
    const kind =
      Number(task) === process.pid
        ? 'js'
        : name.startsWith('ZMQ')
          ? 'zeromq'
          : name.startsWith('kvx') || name.startsWith('shm')
            ? 'engine'
            : 'rest'
    times[kind] += Number(ns) / 1000
  }
  const { user, system } = process.cpuUsage()
  return { ...times, all: user + system }
}

const kinds = {}
let begun
const commands = {
  async open({ kvx, bare, lanes, peers }) {
    if (role === 'prefill') {
      kinds.kvx = await openPrefill(token, lanes)
      kinds.bare = await openBarePrefill()
      return { kvx: kinds.kvx.address, bare: kinds.bare.address }
    }
    kinds.kvx = await openDecode(token, kvx, lanes, peers)
    kinds.bare = await openBareDecode(bare)
    return undefined
  },
  begin() {
    begun = { cpu: cpu(), messages }
  },
  /** Each lane has one request after the other; both sides count rooms alike. */
  async run({ kind, lanes, peers, requests, firstRoom }) {
    const side = kinds[kind]
    if (side.request === undefined) return undefined
    const ms = []
    const lane = async (index) => {
      for (let i = index; i < requests; i += lanes) {
        const began = performance.now()
        await side.request(index, BigInt(firstRoom + i), peers)
        ms.push(performance.now() - began)
      }
    }
    await Promise.all(Array.from({ length: lanes }, (_, index) => lane(index)))
    ms.sort((one, other) => one - other)
    return { p50: ms[ms.length >> 1], p99: ms[Math.floor(ms.length * 0.99)] }
  },
  end() {
    const now = cpu()
    return {
      messages: messages - begun.messages,
      cpu: Object.fromEntries(Object.entries(now).map(([k, v]) => [k, v - begun.cpu[k]])),
    }
  },
  record() {
    recorded = []
  },
  /** Messages sent since `record`, but for signs of life. */
  recorded() {
    const messages = recorded.flatMap((frame) => [...decodeFrame(frame)])
    recorded = undefined
    return messages
      .filter(({ k }) => !['ping', 'pong'].includes(k))
      .map((message) => Buffer.from(encodeMessage(message)).toString('base64'))
  },
  play({ own, others }) {
    kinds.bare.play(own.map(decoded), others.length)
  },
  moved: () => createHash('sha256').update(kinds.kvx.moved()).digest('hex'),
  async close() {
    await kinds.kvx.close()
    kinds.bare.close()
    process.disconnect()
  },
}

const decoded = (message) => [...decodeFrame(Buffer.from(message, 'base64'))][0]

// Not longer than its parent, however that ends.
process.on('disconnect', () => process.exit())
process.on('message', ({ command, id, ...rest }) => {
  Promise.resolve()
    .then(() => commands[command](rest))
    .then(
      (result) => process.connected && process.send({ id, result }),
      (error) => process.send({ id, error: String(error.stack) }),
    )
})
