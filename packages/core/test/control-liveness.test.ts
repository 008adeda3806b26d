import { spawn, type ChildProcess } from 'node:child_process'
import { createConnection, createServer } from 'node:net'
import { createInterface } from 'node:readline'
import { expect, test } from 'vitest'
import { cleanup, Journal, openClient, openServer, token } from './control-helpers.ts'

const control = JSON.stringify(new URL('../dist/control/index.js', import.meta.url).href)
const livenessMs = 1_000

/** A process that runs a server or a client; its lines of output. */
function spawnPeer(script: string): { child: ChildProcess; lines: Journal<string> } {
  const prologue = `
    import { ControlServer, ControlClient } from ${control}
    const log = { debug() {}, info() {}, warn() {}, error() {} }
    const both = { token: ${JSON.stringify(token)}, log, livenessMs: ${livenessMs} }
  `
  const child = spawn(process.execPath, ['--input-type=module', '-e', prologue + script], {
    cwd: import.meta.dirname,
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  cleanup(() => child.kill('SIGKILL'))
  const lines = new Journal<string>()
  createInterface({ input: child.stdout }).on('line', lines.add)
  return { child, lines }
}

test.each(['SIGSTOP', 'SIGKILL'] as const)(
  'a client that gets %s is noticed by the server',
  async (signal) => {
    const { server, messages, closed } = await openServer({ livenessMs })
    const { child } = spawnPeer(`
    const client = ControlClient.connect({
      ...both, endpoint: '${server.endpoint}', onUp: () => client.send({ here: true }), onDown() {}, onMessage() {},
    })`)
    const { connection } = await messages.find()
    expect(connection.closed).toBe(false)
    child.kill(signal)
    expect(await closed.find()).toBe(connection)
    expect(server.connections).toBe(0)
  },
)

test.each(['SIGSTOP', 'SIGKILL'] as const)(
  'a server that gets %s is noticed by the client',
  async (signal) => {
    const { child, lines } = spawnPeer(`
    const server = await ControlServer.bind({ ...both, host: '127.0.0.1', port: 0, onMessage() {} })
    console.log(server.endpoint)`)
    const { client, up, lost } = openClient(await lines.find(), { livenessMs })
    await up()
    child.kill(signal)
    expect(await lost()).toMatchObject({
      code: 'ERR_KVX_PEER_LOST',
    })
    expect(client.up).toBe(false)
  },
)

test('a frozen server that thaws is reached again', async () => {
  const { child, lines } = spawnPeer(`
    const server = await ControlServer.bind({ ...both, host: '127.0.0.1', port: 0, onMessage: (c, m) => c.send(m) })
    console.log(server.endpoint)`)
  const { client, up, lost, states, messages } = openClient(await lines.find(), { livenessMs })
  await up()
  child.kill('SIGSTOP')
  await lost()
  child.kill('SIGCONT')
  while (!client.up) await states.count(states.entries.length + 1)
  client.send({ still: 'there' })
  expect(await messages.find()).toEqual({ still: 'there' })
})

/** Resolves when the server has ended a connection that says nothing. */
function silence(port: number): Promise<void> {
  const socket = createConnection(port, '127.0.0.1')
  socket.on('error', () => undefined)
  socket.resume()
  cleanup(() => socket.destroy())
  return new Promise((resolve) =>
    socket.on('close', () => {
      resolve()
    }),
  )
}

test('a quiet connection stays', async () => {
  const slow = { livenessMs: 2_000 }
  const { server, messages, closed } = await openServer(slow)
  const { client, up, states } = openClient(server.endpoint, slow)
  await up()
  const before = states.entries.length
  client.send({ a: 1 })
  await messages.find()
  // Silent neighbours measure the time: each is ended after one liveness.
  for (let i = 0; i < 3; i += 1) await silence(server.port)
  client.send({ a: 2 })
  await messages.find(({ message }) => message.a === 2)
  expect(states.entries).toHaveLength(before)
  expect(closed.entries).toEqual([])
})

test('hundreds of connections that say nothing keep nobody out and are ended', async () => {
  const { server, messages } = await openServer({ livenessMs })
  const silent = Array.from({ length: 300 }, () => silence(server.port))
  const { client, up } = openClient(server.endpoint)
  await up()
  client.send({ a: 1 })
  await messages.find()
  expect(server.connections).toBe(1)
  await Promise.all(silent)
})

test('a service that accepts and says nothing is told as such, and tried again', async () => {
  const mute = createServer((socket) => {
    cleanup(() => socket.destroy())
  })
  await new Promise<void>((resolve) => mute.listen(0, '127.0.0.1', resolve))
  cleanup(() => mute.close())
  const { port } = mute.address() as { port: number }
  const endpoint = `tcp://127.0.0.1:${port}`
  const { states } = openClient(endpoint, { livenessMs })
  for (const state of await states.count(2)) {
    expect(state).toMatchObject({
      code: 'ERR_KVX_PEER_LOST',
      message: `${endpoint} accepted the connection, but did not answer.`,
    })
  }
})
