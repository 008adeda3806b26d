import { expect, test } from 'vitest'
import * as zmq from 'zeromq'
import { deploymentKeys, z85 } from '../src/control/keys.ts'
import { cleanup } from './control-helpers.ts'

test('Z85 gives the text of the example in its specification', () => {
  expect(z85(Uint8Array.from([0x86, 0x4f, 0xd2, 0x6f, 0xb5, 0x59, 0xf7, 0x5b]))).toBe('HelloWorld')
})

test('one token gives the same keys everywhere, another token gives others, and server and client differ', () => {
  const keys = deploymentKeys('a token for tests')
  expect(deploymentKeys('a token for tests')).toEqual(keys)
  const all = [keys, deploymentKeys('another token for tests')].flatMap(({ server, client }) => [
    server,
    client,
  ])
  expect(new Set(all.map((pair) => pair.publicKey)).size).toBe(4)
  expect(new Set(all.map((pair) => pair.secretKey)).size).toBe(4)
  for (const pair of all) expect(pair.publicKey).toHaveLength(40)
})

test.each([
  ['empty', '', 'got 0'],
  ['a word', 'correct-horse', 'got 13'],
  ['15 bytes', 'x'.repeat(15), 'got 15'],
  ['no text', undefined, 'must be a string, got undefined'],
])('a token that is %s is refused, and is not in the message', (_what, token, words) => {
  const error = thrown(() => deploymentKeys(token!))
  expect(error).toMatchObject({
    code: 'ERR_KVX_INVALID_OPTION',
    message: expect.stringContaining(words) as string,
  })
  if (token) expect((error as Error).message).not.toContain(token)
})

test('16 bytes are enough, however few characters they are', () => {
  expect(() => deploymentKeys('x'.repeat(16))).not.toThrow()
  expect(() => deploymentKeys('é'.repeat(8))).not.toThrow()
})

function thrown(call: () => unknown): unknown {
  try {
    call()
  } catch (error) {
    return error
  }
  return undefined
}

test('libzmq accepts the derived pairs as its own on both ends of a handshake', async () => {
  const { server, client } = deploymentKeys('a token for tests')
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
