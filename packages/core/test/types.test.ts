/** What the compiler knows of a manager, and whether it is true when it runs. The static checks compile this file. */
import { expect, test } from 'vitest'
import { silentLog } from '@kvx/contract'
import { BootstrapServer, KVManager } from '../src/index.ts'
import { Loopback } from './support/loopback.ts'
import { memoryFor, smallCache, token } from './support/pair.ts'

const cache = () => {
  const one = smallCache(4)
  return { ...one, memory: [memoryFor(one)], token }
}

test('a manager has the methods of its role, and await using closes it and its engine', async () => {
  const engine = new Loopback()
  {
    await using bootstrap = await BootstrapServer.open({
      ...{ host: '127.0.0.1', port: 0, token, log: silentLog },
    })
    await using prefill = await KVManager.open({
      ...{ ...cache(), role: 'prefill', backend: engine.backend, bootstrap: bootstrap.address },
    })
    await using decode = await KVManager.open({
      ...cache(),
      role: 'decode',
      backend: engine.backend,
    })
    expect([prefill.send, decode.receive].map((method) => typeof method)).toEqual([
      'function',
      'function',
    ])
    // @ts-expect-error: decode does not send
    expect(decode.send).toBeUndefined()
    expect(engine.closed).toEqual([])
  }
  expect(engine.closed).toHaveLength(2)
})
