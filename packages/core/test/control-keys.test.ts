import { expect, test } from 'vitest'
import * as zmq from 'zeromq'
import { deploymentKeys, z85 } from '../src/control/keys.ts'
import { cleanup } from './control-helpers.ts'

test('Z85 gives the text of the example in its specification', () => {
  expect(z85(Uint8Array.from([0x86, 0x4f, 0xd2, 0x6f, 0xb5, 0x59, 0xf7, 0x5b]))).toBe('HelloWorld')
})

test('one token gives the same keys everywhere, another token gives others, and server and client differ', () => {
  const keys = deploymentKeys('one')
  expect(deploymentKeys('one')).toEqual(keys)
  const all = [keys, deploymentKeys('two')].flatMap(({ server, client }) => [server, client])
  expect(new Set(all.map((pair) => pair.publicKey)).size).toBe(4)
  expect(new Set(all.map((pair) => pair.secretKey)).size).toBe(4)
  for (const pair of all) expect(pair.publicKey).toHaveLength(40)
})

test('an empty token is refused', () => {
  expect(() => deploymentKeys('')).toThrow(
    expect.objectContaining({ code: 'ERR_KVX_INVALID_OPTION' }),
  )
})

test('libzmq accepts the derived pairs as its own on both ends of a handshake', async () => {
  const { server, client } = deploymentKeys('a token')
  const pull = new zmq.Pull({ curveServer: true, curveSecretKey: server.secretKey, linger: 0 })
  const push = new zmq.Push({
    curveServerKey: server.publicKey,
    curvePublicKey: client.publicKey,
    curveSecretKey: client.secretKey,
    linger: 0,
  })
  cleanup(() => {
    pull.close()
  })
  cleanup(() => {
    push.close()
  })
  await pull.bind('tcp://127.0.0.1:0')
  push.connect(pull.lastEndpoint ?? '')
  await push.send('hello')
  expect((await pull.receive()).toString()).toBe('hello')
})
