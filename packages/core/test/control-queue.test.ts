import { setImmediate as nextTurn } from 'node:timers/promises'
import { expect, test } from 'vitest'
import * as zmq from 'zeromq'
import { decodeFrame, encodeMessage, type Message } from '../src/control/codec.ts'
import { deploymentKeys } from '../src/control/keys.ts'
import { cleanup, Journal, openClient, openServer, token } from './control-helpers.ts'

const keys = deploymentKeys(token)
const maxUnsentBytes = 1 << 20
/** Nothing in these tests may end because a ping stays unanswered. */
const livenessMs = 600_000
const blob = new Uint8Array(64 * 1024)

/** A server that reads only when it is told to. */
async function openDeafServer() {
  const socket = new zmq.Router({
    linger: 0,
    curveServer: true,
    curveSecretKey: keys.server.secretKey,
    receiveHighWaterMark: 1,
  })
  cleanup(() => {
    socket.close()
  })
  const events = journalOf(socket)
  await socket.bind('tcp://127.0.0.1:*')
  return { socket, events, endpoint: socket.lastEndpoint ?? '' }
}

/** A client that reads only when it is told to. */
function openDeafClient(endpoint: string) {
  const socket = new zmq.Dealer({
    linger: 0,
    curveServerKey: keys.server.publicKey,
    curvePublicKey: keys.client.publicKey,
    curveSecretKey: keys.client.secretKey,
    receiveHighWaterMark: 1,
  })
  cleanup(() => {
    socket.close()
  })
  const events = journalOf(socket)
  socket.connect(endpoint)
  return { socket, events }
}

/** Reads from now on. */
function listen(socket: zmq.Dealer): void {
  void (async () => {
    for await (const [frame] of socket) if (frame === undefined) return
  })()
}

function journalOf(socket: zmq.Dealer | zmq.Router): Journal<string> {
  const events = new Journal<string>()
  void (async () => {
    for await (const { type } of socket.events) events.add(type)
  })()
  return events
}

const numbered = (count: number) => Array.from({ length: count }, (_, i) => ({ i }))

test('ten thousand messages of one turn arrive whole and in order, both ways', async () => {
  const { server, messages, closed } = await openServer()
  const { client, up, messages: answers, states } = openClient(server.endpoint)
  await up()
  const sent = numbered(10_000)
  for (const message of sent) expect(client.send(message)).toBe(true)
  await messages.count(sent.length)
  expect(messages.entries.map(({ message }) => message)).toEqual(sent)
  const connection = messages.entries[0]?.connection
  for (const message of sent) connection?.send(message)
  expect(await answers.count(sent.length)).toEqual(sent)
  expect(closed.entries).toEqual([])
  expect(states.entries.at(-1)).toBe('up')
})

test('what a client sends in one turn travels in one frame', async () => {
  const { socket, endpoint } = await openDeafServer()
  const { client, up } = openClient(endpoint)
  await up()
  for (const message of numbered(100)) client.send(message)
  const [, frame = Buffer.alloc(0)] = await socket.receive()
  expect([...decodeFrame(frame)]).toEqual(numbered(100))
})

test('what a server sends in one turn travels in one frame', async () => {
  const { server, messages } = await openServer()
  const { socket } = openDeafClient(server.endpoint)
  await socket.send(encodeMessage({ here: true }))
  const { connection } = await messages.find()
  for (const message of numbered(100)) connection.send(message)
  const [frame = Buffer.alloc(0)] = await socket.receive()
  expect([...decodeFrame(frame)]).toEqual(numbered(100))
})

test('no frame holds more than a receiver takes, and a large message travels alone', async () => {
  const { socket, endpoint } = await openDeafServer()
  const { client, up } = openClient(endpoint)
  await up()
  const sent: Message[] = [...numbered(3_000), { large: new Uint8Array(1 << 20) }, { last: true }]
  for (const message of sent) client.send(message)
  const counts: number[] = []
  const heard: Message[] = []
  while (heard.length < sent.length) {
    const [, frame = Buffer.alloc(0)] = await socket.receive()
    const messages = [...decodeFrame(frame)]
    counts.push(messages.length)
    heard.push(...messages)
  }
  expect(heard.slice(0, 3_000)).toEqual(numbered(3_000))
  expect(counts.slice(-2)).toEqual([1, 1])
  expect(counts.length).toBeLessThan(10)
})

test('a client that does not read is given up at once, and knows it as soon as it reads', async () => {
  const { server, messages, closed } = await openServer({ maxUnsentBytes, livenessMs })
  const { socket, events } = openDeafClient(server.endpoint)
  await socket.send(encodeMessage({ here: true }))
  const { connection } = await messages.find()
  while (!connection.closed) {
    connection.send({ blob })
    await nextTurn()
  }
  expect(await closed.find()).toBe(connection)
  listen(socket)
  await events.find((type) => type === 'disconnect')
  // It may come again.
  await socket.send(encodeMessage({ again: true }))
  const again = await messages.find(({ message }) => message.again === true)
  expect(again.connection.id).not.toBe(connection.id)
})

test('a client that does not read costs no other client anything', async () => {
  const { server, messages, closed } = await openServer({ maxUnsentBytes, livenessMs })
  const deaf = openDeafClient(server.endpoint)
  await deaf.socket.send(encodeMessage({ deaf: true }))
  const { connection } = await messages.find()
  const other = openClient(server.endpoint)
  await other.up()
  other.client.send({ other: true })
  const honest = await messages.find(({ message }) => message.other === true)
  let sent = 0
  while (!connection.closed) {
    connection.send({ blob })
    honest.connection.send({ sent: sent++ })
    await nextTurn()
  }
  await other.messages.count(sent)
  expect(closed.entries).toEqual([connection])
})

test('a server that does not read is given up at once, knows it as soon as it reads, and the next connection begins empty', async () => {
  const { socket, events, endpoint } = await openDeafServer()
  const { client, up, lost, states } = openClient(endpoint, { maxUnsentBytes, livenessMs })
  await up()
  while (client.send({ blob })) await nextTurn()
  expect(client.up).toBe(false)
  expect(await lost()).toMatchObject({
    code: 'ERR_KVX_PEER_LOST',
    message: expect.stringMatching(/does not read: \d+ bytes wait for it/) as string,
  })
  const heard = new Journal<{ id: string; messages: Message[] }>()
  void (async () => {
    for await (const [id, frame] of socket)
      heard.add({
        id: String(id?.toString('hex')),
        messages: [...decodeFrame(frame ?? Buffer.alloc(0))],
      })
  })()
  await events.find((type) => type === 'disconnect')
  while (!client.up) await states.count(states.entries.length + 1)
  client.send({ fresh: true })
  const { id } = await heard.find(({ messages }) => messages.some(({ fresh }) => fresh === true))
  const ofIt = heard.entries.filter((entry) => entry.id === id)
  expect(ofIt.flatMap(({ messages }) => messages)).toEqual([{ fresh: true }])
})

test('a server that reads late gets everything, however often its queue was full', async () => {
  const { socket, endpoint } = await openDeafServer()
  const { client, up, states } = openClient(endpoint, { livenessMs })
  await up()
  const count = 500
  for (let i = 0; i < count; i++) {
    expect(client.send({ i, blob })).toBe(true)
    await nextTurn()
  }
  const heard: unknown[] = []
  while (heard.length < count) {
    const [, frame = Buffer.alloc(0)] = await socket.receive()
    for (const { i } of decodeFrame(frame)) heard.push(i)
  }
  expect(heard).toEqual(Array.from({ length: count }, (_, i) => i))
  expect(states.entries.at(-1)).toBe('up')
})

test('what was sent just before a client closes still arrives', async () => {
  const { server, messages } = await openServer()
  const { client, up } = openClient(server.endpoint)
  await up()
  client.send({ last: 1 })
  client.send({ last: 2 })
  client.close()
  await messages.count(2)
  expect(messages.entries.map(({ message }) => message)).toEqual([{ last: 1 }, { last: 2 }])
})
