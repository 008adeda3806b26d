/** Whole requests over MORI: a prefill process outlives what happens to its decode processes. */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { BootstrapServer, KVManager, promptDigest, silentLog } from '@kvx/core'
import { allocate } from '@kvx/native'
import { expect, onTestFinished, test } from 'vitest'
import { control, until, useMori } from './support/mori.ts'
import { cache, deadlines, memoryBytes, pageBytes, prompt, token } from './support/requests.mjs'

useMori()

const limit = { timeout: 120_000 }
const start = JSON.stringify({ host: '127.0.0.1', pageBytes, deadlines: deadlines.decode })
const request = { tokens: prompt.length, digest: promptDigest(prompt) }

async function prefill() {
  const bootstrap = await BootstrapServer.open({
    host: '127.0.0.1',
    port: 0,
    token,
    log: silentLog,
  })
  const memory = allocate(memoryBytes)
  memory.view(0, memoryBytes).fill(1)
  const manager = await KVManager.open({
    role: 'prefill',
    backend: 'mori',
    backendOptions: { host: '127.0.0.1' },
    from: import.meta.url,
    ...cache,
    memory: [memory],
    bootstrap: bootstrap.address,
    token,
    deadlines: deadlines.prefill,
  })
  onTestFinished(async () => {
    control.set('hold', 0)
    await manager.close()
    await bootstrap.close()
  })
  return { manager, from: bootstrap.address }
}

async function decode() {
  const child = fork(fileURLToPath(new URL('support/decode.mjs', import.meta.url)), [start], {
    execArgv: [],
    env: { ...process.env, KVX_FAKE_VERBS_CONTROL: '' },
  })
  onTestFinished(() => {
    child.kill('SIGKILL')
  })
  const answer = async (): Promise<unknown> => {
    const [message] = (await once(child, 'message')) as [{ answer?: unknown; code?: string }]
    if (message.code !== undefined) throw Object.assign(new Error(message.code), message)
    return message.answer
  }
  await answer()
  const ask = (action: string, fields: object = {}): Promise<unknown> => {
    child.send({ do: action, ...fields })
    return answer()
  }
  return { child, ask }
}

type Side = Awaited<ReturnType<typeof prefill>>

/** The prompt's one page goes to every page of decode, one request after another. */
async function succeeds(
  { manager, from }: Side,
  target: Awaited<ReturnType<typeof decode>>,
  first: number,
) {
  for (let page = 0; page < 4; page++) {
    const room = first + page
    const sender = manager.send(BigInt(room), request)
    await target.ask('reserve', { room, pages: [page], from })
    await sender.reserved()
    await sender.write({ tokens: [0, prompt.length], pages: [0] })
    await sender.finish()
    await target.ask('done', { room })
    await sender.settled
  }
  expect(await target.ask('filling')).toBe(1)
}

test(
  'decode is killed during a write: the request fails, and the next one to another decode succeeds',
  limit,
  async () => {
    const side = await prefill()
    const first = await decode()
    const sender = side.manager.send(1n, request)
    await first.ask('reserve', { room: 1, pages: [0], from: side.from })
    await sender.reserved()
    control.set('hold', 1)
    const writing = sender.write({ tokens: [0, prompt.length], pages: [0] })
    await until(() => control.get('held') > 0)
    first.child.kill('SIGKILL')
    control.set('hold', 0)
    await expect(writing.then(() => sender.finish())).rejects.toMatchObject({ name: 'KvxError' })
    await sender.settled
    await succeeds(side, await decode(), 10)
  },
)

test(
  'decode is stopped for longer than the deadline of a write: the request fails, other requests succeed, and nothing late lands in pages that decode uses again',
  limit,
  async () => {
    const side = await prefill()
    const first = await decode()
    await first.ask('fill', { value: 7 })
    const sender = side.manager.send(1n, request)
    await first.ask('reserve', { room: 1, pages: [0], from: side.from })
    await sender.reserved()
    control.set('hold', 1)
    const writing = sender.write({ tokens: [0, prompt.length], pages: [0] })
    await until(() => control.get('held') > 0)
    first.child.kill('SIGSTOP')
    await expect(writing.then(() => sender.finish())).rejects.toMatchObject({ name: 'KvxError' })

    // Either the write is stopped with the writer's old engine, or it goes on now; never after decode has settled.
    first.child.kill('SIGCONT')
    await expect(first.ask('done', { room: 1 })).rejects.toMatchObject({
      code: expect.stringMatching(/^ERR_KVX_/) as string,
    })
    await first.ask('settled', { room: 1 })
    await first.ask('fill', { value: 9 }) // the pages are handed out again
    control.set('hold', 0)
    await until(() => control.get('held') === 0)
    await sender.settled
    expect(await first.ask('filling')).toBe(9)
    await succeeds(side, first, 10)
    await succeeds(side, await decode(), 20)
  },
)

test(
  'the completion of a write is lost: the request fails by the deadline, both sides settle, and every page can be used again',
  limit,
  async () => {
    const side = await prefill()
    const target = await decode()
    const sender = side.manager.send(1n, request)
    await target.ask('reserve', { room: 1, pages: [0], from: side.from })
    await sender.reserved()
    control.set('lose', 1)
    const writing = sender.write({ tokens: [0, prompt.length], pages: [0] })
    await expect(writing.then(() => sender.finish())).rejects.toMatchObject({
      code: 'ERR_KVX_TRANSFER_TIMEOUT',
    })
    await expect(target.ask('done', { room: 1 })).rejects.toMatchObject({ name: 'Error' })
    await target.ask('settled', { room: 1 })
    await sender.settled
    await succeeds(side, target, 10)
  },
)
