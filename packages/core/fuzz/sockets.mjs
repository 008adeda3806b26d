/**
 * Frames through real sockets into real managers: bytes of nobody before the handshake, and anything at all
 * from peers that hold the token. Afterwards a request between honest managers must still succeed.
 */
import { connect } from 'node:net'
import { setImmediate as nextTurn } from 'node:timers/promises'
import * as zmq from 'zeromq'
import { backendSymbol } from '../dist/backend/index.js'
import { BootstrapServer, readInstance, registerRank } from '../dist/bootstrap/index.js'
import { decodeFrame } from '../dist/control/codec.js'
import { deploymentKeys } from '../dist/control/index.js'
import { promptDigest } from '../dist/bytes.js'
import { KVManager } from '../dist/manager/index.js'
import { BootstrapWorld } from './bootstrap-world.mjs'
import { DecodeWorld } from './decode-world.mjs'
import { cache, memoryBytes, name128, rank } from './fixtures.mjs'
import { makeFrame } from './mutate.mjs'
import { PrefillWorld } from './prefill-world.mjs'
import { Random } from './random.mjs'

const token = 'a token for fuzzing'
const log = { debug() {}, info() {}, warn() {}, error() {} }

/** An engine that says that it has written. The bytes are not what is fuzzed. */
const backend = {
  [backendSymbol]: 2,
  name: 'nothing',
  probe: async () => ({ available: true, tried: [] }),
  open: async (_, { generation }) => ({
    capabilities: {
      memoryKinds: ['cpu'],
      crossHost: true,
      fence: 'exit',
      maxSegmentBytes: 0,
      minEfficientRun: 0,
    },
    identity: { backend: 'nothing', version: '1', generation },
    address: Buffer.from(generation),
    register: async ({ bytes }) => ({
      id: 0,
      bytes,
      descriptor: Buffer.alloc(16),
      deregister: async () => undefined,
    }),
    connect: async () => ({
      write: () => ({
        done: Promise.resolve({ bytes: 0, segments: 0 }),
        settled: Promise.resolve(),
        cancel() {},
      }),
      close: async () => undefined,
    }),
    fence: async () => undefined,
    close: async () => undefined,
  }),
}

const memory = () => [{ address: 4096n, bytes: memoryBytes, kind: 'cpu', device: 0 }]

/** @param {{ seed: number, frames: number }} options */
export async function fuzzSockets({ seed, frames }) {
  if (frames === 0) return {}
  const random = new Random(seed ^ 0x5eed)
  const bootstrap = await BootstrapServer.open({ host: '127.0.0.1', port: 0, token, log })
  const shared = { backend, token, ...cache, log, from: import.meta.url }
  const prefill = await KVManager.open({
    ...shared,
    role: 'prefill',
    memory: memory(),
    bootstrap: bootstrap.address,
  })
  const decode = await KVManager.open({ ...shared, role: 'decode', memory: memory() })
  const honest = await Honest.open(prefill, decode, bootstrap.address)
  const share = Math.floor(frames / 4)
  // Who has the token may register anything: the honest have a service of their own.
  const other = await BootstrapServer.open({ host: '127.0.0.1', port: 0, token, log })
  const ports = [other.address, await prefillEndpoint(bootstrap)]
  const counts = {
    'sockets: connections of strangers': await strangers(random, ports, Math.min(share, 5_000)),
    'sockets: frames of peers to the bootstrap service': await peer(
      random,
      ports[0],
      new BootstrapWorld(random),
      share,
    ),
    'sockets: frames of peers to prefill': await peer(
      random,
      ports[1],
      new PrefillWorld(random),
      share,
    ),
    'sockets: frames of a prefill to decode': await impostor(random, decode, share),
  }
  await honest.request()
  await decode.close()
  await prefill.close()
  await bootstrap.close()
  await other.close()
  return counts
}

async function prefillEndpoint({ address }) {
  const { ranks } = await readInstance({ bootstrap: address, token, timeoutMs: 10_000 })
  return ranks[0].endpoint
}

/** Requests between managers that do as they should. */
class Honest {
  #room = 2n ** 40n

  constructor(prefill, decode, from) {
    Object.assign(this, { prefill, decode, from })
  }

  static async open(...parts) {
    const honest = new Honest(...parts)
    await honest.request()
    return honest
  }

  async request() {
    const room = this.#room++
    const request = { tokens: 4, digest: promptDigest([1, 2, 3, 4]) }
    const receiver = this.decode.receive(room, { ...request, from: this.from })
    const sender = this.prefill.send(room, request)
    await receiver.reserve({ pages: Int32Array.of(1), state: { mamba: [] } })
    await sender.reserved()
    await sender.write({ tokens: [0, 4], pages: Int32Array.of(1) })
    await Promise.all([sender.finish({ state: { mamba: [] } }), receiver.done])
  }
}

const greeting = Buffer.from(
  `ff00000000000000017f0301${Buffer.from('CURVE').toString('hex').padEnd(40, '0')}${'00'.repeat(32)}`,
  'hex',
)

/** Connections without the token: parts and variants of a greeting, and noise. */
async function strangers(random, endpoints, count) {
  for (let made = 0; made < count; made += 50) {
    await Promise.all(
      Array.from({ length: 50 }, () => {
        const port = Number(random.pick(endpoints).split(':').at(-1))
        const begin = Buffer.from(random.chance(0.8) ? greeting : random.bytes(64))
        if (random.chance(0.5)) begin[random.below(64)] = random.word()
        const bytes = Buffer.concat([
          begin.subarray(0, random.below(65)),
          random.bytes(random.below(400)),
        ])
        return new Promise((resolve) => {
          const socket = connect(port, '127.0.0.1')
          socket.on('error', () => undefined)
          socket.on('close', resolve)
          socket.on('connect', () => socket.end(bytes))
          socket.resume()
        })
      }),
    )
  }
  return count
}

/** A client with the right keys that sends anything. Now and then it goes and comes again. */
async function peer(random, endpoint, world, count) {
  const { client, server } = deploymentKeys(token)
  const keys = {
    curveServerKey: server.publicKey,
    curvePublicKey: client.publicKey,
    curveSecretKey: client.secretKey,
  }
  for (let sent = 0; sent < count;) {
    const socket = new zmq.Dealer({ linger: 1_000, sendHighWaterMark: 100, ...keys })
    const end = Math.min(count, sent + 2_000)
    // What it is told must not fill its queue.
    const heard = (async () => {
      for await (const frames of socket) void frames
    })()
    socket.connect(endpoint)
    while (sent < end) {
      const templates = world.templates()
      for (let i = 0; i < 50 && sent < end; i++, sent++) {
        const frame = makeFrame(random, templates)
        await socket.send(random.chance(0.02) ? [frame, frame] : frame)
      }
      world.turn()
      await nextTurn()
    }
    socket.close()
    await heard
  }
  return count
}

/** Something that has registered as a prefill rank, and answers whatever decode says with anything. */
async function impostor(random, decode, count) {
  const bootstrap = await BootstrapServer.open({ host: '127.0.0.1', port: 0, token, log })
  const socket = new zmq.Router({
    linger: 0,
    curveServer: true,
    curveSecretKey: deploymentKeys(token).server.secretKey,
  })
  await socket.bind('tcp://127.0.0.1:*')
  const incarnation = name128('P', 1)
  const registration = await registerRank({
    bootstrap: bootstrap.address,
    token,
    record: {
      instance: 'impostor',
      incarnation,
      endpoint: socket.lastEndpoint,
      rank,
      backend: 'nothing',
    },
  })
  let room = 0
  const asking = setInterval(() => {
    const request = { from: bootstrap.address, tokens: 4, digest: promptDigest([1, 2, 3, 4]) }
    const receiver = decode.receive(2n ** 50n + BigInt(room++), request)
    receiver.reserve({ pages: Int32Array.of(2), state: { mamba: [] } }).catch(() => undefined)
    setTimeout(() => receiver.abort('enough'), 100)
  }, 10)
  // When decode has given it up for good, there is nothing more to answer.
  const deadline = setTimeout(() => {
    socket.close()
  }, 60_000)
  const world = new DecodeWorld(random)
  let sent = 0
  for await (const [id, frame] of socket) {
    const [{ from: to, gen }] = decodeFrame(frame)
    world.turn()
    const templates = world.templates().map((message) => ({
      ...message,
      from: incarnation,
      to,
      ...('gen' in message && gen !== undefined ? { gen } : {}),
    }))
    // Each message of decode is answered by some; its own retries keep that going.
    for (let i = 0; i < 40; i++, sent++) {
      await socket.send([id, makeFrame(random, templates)]).catch(() => undefined)
    }
    if (sent >= count) break
  }
  clearTimeout(deadline)
  clearInterval(asking)
  socket.close()
  await registration.close()
  await bootstrap.close()
  return sent
}
