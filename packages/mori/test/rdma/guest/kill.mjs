// A prefill process whose decode process is killed while bytes are on their way to it. Another one with its name takes its
// place. Tells what became of either request, a line of JSON for each.
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { BootstrapServer, KVManager, promptDigest, silentLog } from '@kvx/core'
import { allocate } from '@kvx/native'
import { cacheOf, memoryBytesOf, prompt, token } from '../../support/requests.mjs'

const host = process.env.KVX_RDMA_LAB_ADDRESS
/** Half of a request, which takes about a second here. */
const pageBytes = 16 * 2 ** 20
const request = { tokens: prompt.length, digest: promptDigest(prompt) }
const tell = (told) => process.stdout.write(`${JSON.stringify(told)}\n`)

async function startDecode() {
  const deadlines = { hello: 120_000 }
  const start = JSON.stringify({ host, pageBytes, deadlines, instance: 'decode' })
  const program = fileURLToPath(new URL('../../support/decode.mjs', import.meta.url))
  const child = fork(program, [start], { execArgv: [] })
  const answer = async () => {
    const [message] = await once(child, 'message')
    if (message.code !== undefined) throw Object.assign(new Error(message.message), message)
    return message.answer
  }
  const ready = answer()
  const ask = (action, fields = {}) => {
    child.send({ do: action, ...fields })
    return answer()
  }
  return { child, ask, ready }
}

const bootstrap = await BootstrapServer.open({ host, port: 0, token, log: silentLog })
const memory = allocate(memoryBytesOf(pageBytes))
memory.view(0, memory.bytes).fill(1)
const first = await startDecode()
const [manager] = await Promise.all([
  KVManager.open({
    role: 'prefill',
    ...{ backend: 'mori', backendOptions: { host }, from: import.meta.url },
    ...{ ...cacheOf(pageBytes), memory: [memory] },
    ...{ host, bootstrap: bootstrap.address, token, deadlines: { hello: 120_000 } },
  }),
  first.ready,
])

async function reserved(decode, room, pages) {
  const sender = manager.send(BigInt(room), request)
  await decode.ask('reserve', { room, pages, from: bootstrap.address })
  await sender.reserved()
  return sender
}
const write = async (sender) => {
  await sender.write({ tokens: [0, prompt.length], pages: [0] })
  await sender.finish()
}

const sender = await reserved(first, 1, [0])
const writing = write(sender).then(
  () => ({ code: 'none' }),
  ({ code, message }) => ({ code, message }),
)
await first.ask('firstByte')
const killed = performance.now()
first.child.kill('SIGKILL')
const failure = await writing
const ms = performance.now() - killed
await sender.settled
tell({ what: 'killed', ...failure, ms, settledMs: performance.now() - killed })

const second = await startDecode()
await second.ready
for (let page = 0; page < 4; page++) {
  const room = 2 + page
  const next = await reserved(second, room, [page])
  await write(next)
  await second.ask('done', { room })
  await next.settled
}
tell({ what: 'restarted', filling: await second.ask('filling') })
second.child.kill('SIGKILL')
await manager.close()
await bootstrap.close()
