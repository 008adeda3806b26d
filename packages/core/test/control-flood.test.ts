import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { createConnection, type Socket } from 'node:net'
import { createInterface } from 'node:readline'
import { expect, test } from 'vitest'
import * as zmq from 'zeromq'
import { maxPeers, maxStrangers } from '../src/control/gate.ts'
import { deploymentKeys } from '../src/control/keys.ts'
import { cleanup, Journal, openClient, token } from './control-helpers.ts'

const dist = (path: string) => JSON.stringify(new URL(`../dist/${path}`, import.meta.url).href)

/** A server in a process of its own; `stat` tells its file handles and its resident memory. */
async function spawnServer(open: string) {
  const child = spawn(
    process.execPath,
    [
      '--input-type=module',
      '-e',
      `
      import { readdirSync } from 'node:fs'
      const log = { debug() {}, info() {}, warn() {}, error() {} }
      const options = { host: '127.0.0.1', port: 0, token: ${JSON.stringify(token)}, log }
      ${open}
      console.log(endpoint)
      process.stdin.on('data', () => {
        console.log(JSON.stringify({ files: readdirSync('/proc/self/fd').length, bytes: process.memoryUsage.rss() }))
      })`,
    ],
    { stdio: ['pipe', 'pipe', 'inherit'] },
  )
  cleanup(() => child.kill('SIGKILL'))
  const lines = new Journal<string>()
  createInterface({ input: child.stdout }).on('line', lines.add)
  const [endpoint = ''] = await lines.count(1)
  return {
    endpoint,
    async stat(): Promise<{ files: number; bytes: number }> {
      const next = lines.entries.length + 1
      child.stdin.write('?')
      return JSON.parse((await lines.count(next))[next - 1] ?? '') as never
    },
  }
}

const signature = Buffer.from('ff00000000000000017f', 'hex')
const greeting = Buffer.concat([
  signature,
  Buffer.from([3, 1]),
  Buffer.from('CURVE'.padEnd(20, '\0')),
  Buffer.alloc(32),
])

const strangers: Record<string, (socket: Socket) => void> = {
  'say nothing': () => undefined,
  'send garbage': (socket) => socket.write(randomBytes(100)),
  'speak HTTP': (socket) => socket.write('GET / HTTP/1.1\r\nHost: kvx\r\n\r\n'),
  'send half a greeting': (socket) => socket.write(signature),
  'send a greeting and no key': (socket) => socket.write(greeting),
  'send more than a handshake': (socket) =>
    socket.write(Buffer.concat([greeting, Buffer.alloc(100_000)])),
}

/** Keeps `count` connections to the server open, each replaced as soon as it ends. */
function flood(port: number, count: number) {
  const kinds = Object.values(strangers)
  const open = new Set<Socket>()
  let made = 0
  let on = true
  const one = () => {
    const begin = kinds[made++ % kinds.length]
    const socket = createConnection(port, '127.0.0.1')
    open.add(socket)
    socket.on('error', () => undefined)
    socket.on('connect', () => begin?.(socket))
    socket.resume()
    socket.on('close', () => {
      open.delete(socket)
      if (on) setImmediate(one)
    })
  }
  const stop = () => {
    on = false
    for (const socket of open) socket.destroy()
  }
  cleanup(stop)
  for (let i = 0; i < count; i += 1) one()
  return { stop, made: () => made }
}

/** Clients that know the server's public key, but have none that it admits, and try again and again. */
function intruders(endpoint: string, count: number): () => void {
  const { publicKey } = deploymentKeys(token).server
  const sockets = Array.from({ length: count }, () => {
    const own = zmq.curveKeyPair()
    const socket = new zmq.Dealer({
      linger: 0,
      reconnectInterval: 10,
      curveServerKey: publicKey,
      curvePublicKey: own.publicKey,
      curveSecretKey: own.secretKey,
    })
    socket.connect(endpoint)
    return socket
  })
  const stop = () => {
    for (const socket of sockets) socket.close()
  }
  cleanup(stop)
  return stop
}

const echo = `
  import { ControlServer } from ${dist('control/index.js')}
  const server = await ControlServer.bind({ ...options, livenessMs: 1000, onMessage: (c, m) => c.send(m) })
  const { endpoint } = server`

const bootstrap = `
  import { BootstrapServer } from ${dist('bootstrap/index.js')}
  const { address: endpoint } = await BootstrapServer.open(options)`

test.each([
  ['a control server', echo],
  ['the bootstrap service', bootstrap],
])(
  'a flood of strangers costs %s a bounded number of handles and bytes, and peers are served meanwhile',
  async (_, open) => {
    const server = await spawnServer(open)
    const port = Number(server.endpoint.split(':').at(-1))
    const peer = openClient(server.endpoint)
    await peer.up()
    const answered = async (n: number) => {
      peer.client.send({ n })
      await peer.messages.count(n)
    }
    await answered(1)
    const before = await server.stat()

    const { stop, made } = flood(port, 1_000)
    const stopIntruders = intruders(server.endpoint, 50)
    let most = before
    let messages = 1
    while (made() < 5_000) {
      await answered(++messages)
      const { files, bytes } = await server.stat()
      most = { files: Math.max(most.files, files), bytes: Math.max(most.bytes, bytes) }
      // One more peer of the deployment gets in, and leaves.
      const late = openClient(server.endpoint)
      await late.up()
      late.client.close()
    }
    stop()
    stopIntruders()
    // A stranger costs one handle, and two more once it has begun a handshake.
    expect(most.files - before.files).toBeLessThan(3 * maxStrangers + 100)
    expect(most.files - before.files).toBeGreaterThan(100)
    expect(most.bytes - before.bytes).toBeLessThan(128 << 20)

    let after = await server.stat()
    while (after.files > before.files) after = await server.stat()
    expect(after.files).toBe(before.files)
    await answered(messages + 1)
    expect(peer.states.entries).toEqual(['up'])
  },
)

test('a process has handles for all strangers and peers that it admits', () => {
  // Node raises its limit to the hard one; 16,384 is less than any usual hard limit.
  expect(3 * (maxStrangers + maxPeers)).toBeLessThan(16_384)
})
