import { createServer } from 'node:net'
import { expect, test } from 'vitest'
import { silentLog } from '@kvx/contract'
import { ControlServer } from '../src/control/server.ts'
import { maxMessageBytes } from '../src/control/codec.ts'
import { cleanup, openClient, openServer, token } from './control-helpers.ts'
import { lastingPort } from './support/port.ts'

test('a message and its answer travel, on a port that was chosen', async () => {
  const { server, messages } = await openServer()
  expect(server.port).toBeGreaterThan(0)
  expect(server.endpoint).toBe(`tcp://127.0.0.1:${server.port}`)
  const { client, up, messages: answers } = openClient(server.endpoint)
  expect(client.send({ too: 'early' })).toBe(false)
  await up()
  expect(client.send({ room: 2n ** 64n - 1n })).toBe(true)
  const { connection, message } = await messages.find()
  expect(message).toEqual({ room: 2n ** 64n - 1n })
  connection.send({ answer: 1 })
  expect(await answers.find()).toEqual({ answer: 1 })
})

test('IPv6 works', async () => {
  const { server, messages } = await openServer({ host: '::1' })
  expect(server.endpoint).toBe(`tcp://[::1]:${server.port}`)
  const { client, up } = openClient(server.endpoint)
  await up()
  client.send({ a: 1 })
  expect((await messages.find()).message).toEqual({ a: 1 })
})

test('a host name works on both sides', async () => {
  const { server, messages } = await openServer({ host: 'localhost' })
  const { client, up } = openClient(
    server.endpoint.replace(server.host, server.host.includes(':') ? server.host : 'localhost'),
  )
  await up()
  client.send({ a: 1 })
  expect((await messages.find()).message).toEqual({ a: 1 })
})

test('messages of one connection arrive in order', async () => {
  const { server, messages } = await openServer()
  const { client, up } = openClient(server.endpoint)
  await up()
  for (let i = 0; i < 500; i += 1) expect(client.send({ i })).toBe(true)
  await messages.count(500)
  expect(messages.entries.map(({ message }) => message.i)).toEqual(
    Array.from({ length: 500 }, (_, i) => i),
  )
})

test('two clients are two connections, and each gets its own answers', async () => {
  const { server, messages } = await openServer()
  const one = openClient(server.endpoint)
  const two = openClient(server.endpoint)
  await one.up()
  await two.up()
  one.client.send({ from: 'one' })
  two.client.send({ from: 'two' })
  await messages.count(2)
  expect(new Set(messages.entries.map(({ connection }) => connection.id)).size).toBe(2)
  for (const { connection, message } of messages.entries) connection.send({ to: message.from })
  expect(await one.messages.find()).toEqual({ to: 'one' })
  expect(await two.messages.find()).toEqual({ to: 'two' })
})

test('a port in use is told in one sentence', async () => {
  const { server } = await openServer()
  const second = ControlServer.bind({
    host: '127.0.0.1',
    port: server.port,
    token,
    onMessage: () => undefined,
    log: silentLog,
  })
  await expect(second).rejects.toMatchObject({
    code: 'ERR_KVX_ADDRESS_UNAVAILABLE',
    message: `Cannot listen on tcp://127.0.0.1:${server.port}: the port is in use. Choose another one, or 0 for any free one.`,
  })
})

test.each(['198.51.100.7', 'no-such-host.invalid'])(
  '%s cannot be listened on, and the error says so',
  async (host) => {
    const bound = ControlServer.bind({
      host,
      port: 0,
      token,
      onMessage: () => undefined,
      log: silentLog,
    })
    await expect(bound).rejects.toMatchObject({ code: 'ERR_KVX_ADDRESS_UNAVAILABLE' })
  },
)

test('a closed server has freed its port', async () => {
  const { server } = await openServer({ port: await lastingPort() })
  await server.close()
  const again = await openServer({ port: server.port })
  expect(again.server.port).toBe(server.port)
})

test('a client comes back by itself when the server does', async () => {
  const first = await openServer({ port: await lastingPort() })
  const { client, up, lost, states } = openClient(first.server.endpoint)
  await up()
  await first.server.close()
  const reason = await lost()
  expect(reason).toMatchObject({ code: 'ERR_KVX_PEER_LOST' })
  expect(client.up).toBe(false)
  const second = await openServer({ port: first.server.port })
  while (!client.up) await states.count(states.entries.length + 1)
  client.send({ again: true })
  expect((await second.messages.find()).message).toEqual({ again: true })
})

test('nothing that was sent while the connection was down arrives later', async () => {
  const first = await openServer({ port: await lastingPort() })
  const { client, up, lost, states } = openClient(first.server.endpoint)
  await up()
  await first.server.close()
  await lost()
  expect(client.send({ stale: true })).toBe(false)
  const second = await openServer({ port: first.server.port })
  while (!client.up) await states.count(states.entries.length + 1)
  client.send({ fresh: true })
  expect((await second.messages.find()).message).toEqual({ fresh: true })
})

test('a client that nobody answers is told that, again and again', async () => {
  const { server } = await openServer({ port: await lastingPort() })
  await server.close()
  const { states } = openClient(server.endpoint)
  const entries = await states.count(2)
  for (const entry of entries) {
    expect(entry).toMatchObject({
      code: 'ERR_KVX_PEER_LOST',
      message: `Nothing answers at ${server.endpoint}.`,
    })
  }
})

test('a service that does not speak the protocol is told as a refused handshake', async () => {
  const web = createServer((socket) => {
    socket.on('error', () => undefined).end('HTTP/1.1 400 Bad Request\r\n\r\n')
  })
  await new Promise<void>((resolve) => web.listen(0, '127.0.0.1', resolve))
  cleanup(() => {
    web.close()
  })
  const { port } = web.address() as { port: number }
  const { states } = openClient(`tcp://127.0.0.1:${port}`)
  // Twice: it goes on trying.
  for (const entry of await states.count(2))
    expect(entry).toMatchObject({ code: 'ERR_KVX_UNAUTHORIZED' })
})

test('the server learns that a client has gone', async () => {
  const { server, messages, closed } = await openServer()
  const { client, up } = openClient(server.endpoint)
  await up()
  client.send({ a: 1 })
  const { connection } = await messages.find()
  expect(server.connections).toBe(1)
  client.close()
  expect(await closed.find()).toBe(connection)
  expect(connection.closed).toBe(true)
  expect(server.connections).toBe(0)
  connection.send({ into: 'the void' })
})

test('a message above the limit is refused before it is sent', async () => {
  const { server, messages } = await openServer()
  const { client, up } = openClient(server.endpoint)
  await up()
  const tooLarge = { blob: new Uint8Array(maxMessageBytes) }
  expect(() => client.send(tooLarge)).toThrow(
    expect.objectContaining({ code: 'ERR_KVX_OVER_LIMIT' }),
  )
  client.send({ blob: new Uint8Array(maxMessageBytes - 100) })
  const { connection, message } = await messages.find()
  expect((message.blob as Uint8Array).length).toBe(maxMessageBytes - 100)
  expect(() => {
    connection.send(tooLarge)
  }).toThrow(expect.objectContaining({ code: 'ERR_KVX_OVER_LIMIT' }))
})

test('a handler that throws ends neither the server nor the client', async () => {
  let calls = 0
  const { server } = await openServer({
    onMessage: (connection) => {
      calls += 1
      connection.send({ calls })
      throw new Error('a defect')
    },
  })
  const { client, up, messages } = openClient(server.endpoint)
  await up()
  client.send({})
  client.send({})
  expect(await messages.count(2)).toEqual([{ calls: 1 }, { calls: 2 }])
})

test.each([
  '127.0.0.1:1',
  'tcp://host',
  'tcp://host:0',
  'tcp://host:70000',
  'tcp://::1:5',
  'tcp://a b:5',
  'ipc://x',
])('%s is no endpoint', (endpoint) => {
  expect(() => openClient(endpoint)).toThrow(
    expect.objectContaining({ code: 'ERR_KVX_INVALID_OPTION' }),
  )
})
