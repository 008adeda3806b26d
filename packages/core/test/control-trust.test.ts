import { createConnection } from 'node:net'
import { expect, test } from 'vitest'
import * as zmq from 'zeromq'
import { encodeMessage, maxMessageBytes } from '../src/control/codec.ts'
import { deploymentKeys } from '../src/control/keys.ts'
import { cleanup, Journal, openClient, openServer, token } from './control-helpers.ts'

/** A raw socket that sends a valid message as soon as it can, and what its monitor says. */
function intrude(
  endpoint: string,
  options: zmq.SocketOptions<zmq.Dealer>,
  frames: (string | Uint8Array)[] = [encodeMessage({ evil: true })],
) {
  const socket = new zmq.Dealer({ linger: 0, ...options })
  cleanup(() => {
    socket.close()
  })
  const events = new Journal<string>()
  void (async () => {
    for await (const event of socket.events) events.add(event.type)
  })()
  socket.connect(endpoint)
  void socket.send(frames).catch(() => undefined)
  return events
}

const { server: serverKeys, client: clientKeys } = deploymentKeys(token)
const curve = {
  curveServerKey: serverKeys.publicKey,
  curvePublicKey: clientKeys.publicKey,
  curveSecretKey: clientKeys.secretKey,
}

/** Nothing of the intruder has arrived although a message that was sent later has. */
async function expectNothing(server: Awaited<ReturnType<typeof openServer>>): Promise<void> {
  const { client, up } = openClient(server.server.endpoint)
  await up()
  client.send({ honest: true })
  await server.messages.find()
  expect(server.messages.entries.map(({ message }) => message)).toEqual([{ honest: true }])
  expect(server.malformed.entries).toEqual([])
  expect(server.server.connections).toBe(1)
}

test('a client with another token gets nothing through and is told why', async () => {
  const server = await openServer()
  const { client, states } = openClient(server.server.endpoint, {
    token: 'another token for tests',
  })
  const reason = await states.find()
  expect(reason).toMatchObject({
    code: 'ERR_KVX_UNAUTHORIZED',
    message: `${server.server.endpoint} refused the handshake: it has another token, or is no kvx service.`,
  })
  expect(client.send({ evil: true })).toBe(false)
  await states.count(2)
  expect(states.entries).not.toContain('up')
  await expectNothing(server)
})

test('a client without CURVE gets nothing through', async () => {
  const server = await openServer()
  const events = intrude(server.server.endpoint, {})
  await events.find((type) => type.startsWith('handshake:error'))
  await expectNothing(server)
})

test('a client that knows the public key of the server, but has a key of its own, gets nothing through', async () => {
  const server = await openServer()
  const own = zmq.curveKeyPair()
  const events = intrude(server.server.endpoint, {
    curveServerKey: serverKeys.publicKey,
    curvePublicKey: own.publicKey,
    curveSecretKey: own.secretKey,
  })
  await events.find((type) => type === 'handshake:error:auth')
  await expectNothing(server)
})

test('a server with another token is refused by the client as well', async () => {
  const own = zmq.curveKeyPair()
  const impostor = new zmq.Router({ curveServer: true, curveSecretKey: own.secretKey, linger: 0 })
  cleanup(() => {
    impostor.close()
  })
  await impostor.bind('tcp://127.0.0.1:0')
  const { states } = openClient(impostor.lastEndpoint ?? '')
  expect(await states.find()).toMatchObject({ code: 'ERR_KVX_UNAUTHORIZED' })
})

test('a frame above the limit ends the connection before it is read', async () => {
  const server = await openServer()
  const events = intrude(server.server.endpoint, curve, [new Uint8Array(maxMessageBytes + 1_000)])
  await events.find((type) => type === 'handshake')
  await events.find((type) => type === 'disconnect')
  await expectNothing(server)
})

test('a holder of the token that sends garbage is counted, and others are served', async () => {
  const server = await openServer()
  intrude(server.server.endpoint, curve, ['no cbor'])
  intrude(server.server.endpoint, curve, ['two', 'frames'])
  await server.malformed.count(2)
  for (const error of server.malformed.entries) expect(error.code).toBe('ERR_KVX_PROTOCOL')
  const { client, up } = openClient(server.server.endpoint)
  await up()
  client.send({ honest: true })
  expect((await server.messages.find()).message).toEqual({ honest: true })
  expect(server.messages.entries).toHaveLength(1)
})

test('bytes that are no handshake end the connection', async () => {
  const server = await openServer()
  const { port } = server.server
  const socket = createConnection(port, '127.0.0.1')
  const ended = new Promise<void>((resolve) =>
    socket.on('close', () => {
      resolve()
    }),
  )
  socket.on('error', () => undefined)
  socket.resume()
  socket.write(Buffer.alloc(4_096, 0x47))
  await ended
  await expectNothing(server)
})
