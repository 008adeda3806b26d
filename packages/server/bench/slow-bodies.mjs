// What slow clients cost a server in memory: many of them send the beginning of a large body and then nothing more.
// `node packages/server/bench/slow-bodies.mjs [--help]`
//
// The server is a process of its own, a router whose workers are not there, since bodies are read before a worker is
// asked. Printed is its resident memory before, at its most, and after the time in which a body must go on. Needs the
// built packages of this repository (`npm run setup`).
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { createConnection } from 'node:net'
import { setTimeout as pause } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const { values } = parseArgs({
  options: {
    clients: { type: 'string', default: '100' },
    mebibytes: { type: 'string', default: '4' },
    piece: { type: 'string', default: '0' },
    wide: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
    serve: { type: 'boolean', default: false },
  },
})
const usage = `Memory of a server whose clients send the beginning of a body and then nothing more.

  --clients N     connections at the same time (default 100)
  --mebibytes N   length of each body (default 4)
  --piece BYTES   send it in chunks of this length (default 0: in one piece)
  --wide          send characters of three bytes`

if (values.help) console.log(usage)
else if (values.serve) await serve()
else await measure()

async function serve() {
  const { startRouter } = await import('@kvx/server/router')
  const nobody = 'http://127.0.0.1:9'
  const router = await startRouter({ prefill: [{ url: nobody }], decode: [nobody] })
  process.on('message', () => {
    process.send(process.memoryUsage.rss())
  })
  process.on('disconnect', () => {
    process.exit()
  })
  process.send(router.port)
}

async function measure() {
  const [clients, mebibytes, piece] = [values.clients, values.mebibytes, values.piece].map(Number)
  const server = fork(fileURLToPath(import.meta.url), ['--serve'])
  const [port] = await once(server, 'message')
  const resident = async () => {
    server.send('memory')
    const [bytes] = await once(server, 'message')
    return bytes / 1e6
  }
  const before = await resident()
  const started = performance.now()
  // One byte less than it says.
  const length = mebibytes * 2 ** 20
  const text = Buffer.from((values.wide ? '語' : ' ').repeat(length)).subarray(0, length - 1)
  const chunk = (part) =>
    Buffer.concat([Buffer.from(`${part.length.toString(16)}\r\n`), part, Buffer.from('\r\n')])
  const inChunks = () => {
    const starts = Array.from({ length: Math.ceil(text.length / piece) }, (_, i) => i * piece)
    return Buffer.concat(starts.map((from) => chunk(text.subarray(from, from + piece))))
  }
  const sent = piece > 0 ? inChunks() : text
  const framing = piece > 0 ? 'transfer-encoding: chunked' : `content-length: ${length}`
  const head = `POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n${framing}\r\n\r\n`

  const answers = {}
  let open = clients
  for (let i = 0; i < clients; i++) {
    const socket = createConnection(port, '127.0.0.1')
    socket.once('data', (data) => {
      const status = String(data).slice(9, 12)
      answers[status] = (answers[status] ?? 0) + 1
    })
    socket.on('error', () => undefined).on('close', () => open--)
    socket.write(head)
    socket.write(sent)
  }
  let most = before
  let held = 0
  while (open > 0) {
    const now = await resident()
    most = Math.max(most, now)
    if (open < clients) held = now
    await pause(50)
  }
  const seconds = (performance.now() - started) / 1_000
  await pause(2_000)
  const after = await resident()
  const mb = (bytes) => `${bytes.toFixed(0)} MB`
  console.log(
    `${clients} bodies of ${mebibytes} MiB${piece > 0 ? ` in chunks of ${piece} bytes` : ''}: ` +
      `${mb(before)} before, ${mb(most)} at the most, ${mb(held)} before the last ended, ` +
      `${mb(after)} after; all ended within ${seconds.toFixed(0)} s, answered with ${JSON.stringify(answers)}`,
  )
  server.disconnect()
}
