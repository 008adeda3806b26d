// A process is killed in the middle of a request. No deadline of the other side ends within a day, so that only the
// news of the engine can end the request.
import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { BootstrapServer } from '@kvx/core'
import { silentLog } from '@kvx/contract'
import { afterEach, expect, test } from 'vitest'
import { awaitPages, begin, openRank, token } from './children/rank.mjs'

const script = fileURLToPath(new URL('./children/rank.mjs', import.meta.url))
const closing: (() => unknown)[] = []
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close()
})

async function openBootstrap(): Promise<string> {
  const bootstrap = await BootstrapServer.open({
    host: '127.0.0.1',
    port: 0,
    token,
    log: silentLog,
  })
  closing.push(() => bootstrap.close())
  return bootstrap.address
}

function forkRank(role: 'prefill' | 'decode', bootstrap: string): ChildProcess {
  const child = fork(script, [role, bootstrap])
  closing.push(() => child.kill('SIGKILL'))
  return child
}

async function openHere(role: 'prefill' | 'decode', bootstrap?: string) {
  const { manager, memory } = await openRank(role, bootstrap)
  closing.push(async () => {
    await manager.close()
    memory.free()
  })
  return manager
}

const lost = {
  name: 'KvxError',
  code: 'ERR_KVX_PEER_LOST',
  message: expect.stringMatching(/(prefill|decode) .* is gone\. The process \d+/) as string,
}

test('decode is told at once that prefill was killed: the request fails and its pages are free', async () => {
  const from = await openBootstrap()
  const child = forkRank('prefill', from)
  const decode = await openHere('decode')
  const receiver = await awaitPages(decode, from)
  await once(child, 'message')
  child.kill('SIGKILL')
  await expect(receiver.done).rejects.toMatchObject(lost)
  await receiver.settled
})

test('prefill is told at once that decode was killed, also when it does not write', async () => {
  const from = await openBootstrap()
  const prefill = await openHere('prefill', from)
  const child = forkRank('decode', from)
  const sender = await begin(prefill)
  child.kill('SIGKILL')
  await sender.settled
  expect(sender.error).toMatchObject(lost)
})
