/** A client, and workers behind a router, in a thread of their own: the event loop here is the server's alone. */
import { once } from 'node:events'
import { Worker } from 'node:worker_threads'

const program = `
const { createConnection } = require('node:net')
const { createServer } = require('node:http')
const { parentPort } = require('node:worker_threads')
const worker = createServer((request, response) => {
  response.setHeader('content-type', 'application/json')
  const answer = () => response.end('{"bootstrap_port":1}')
  if (request.method === 'GET') answer()
  else request.resume().on('end', answer)
})
worker.listen(0, '127.0.0.1', () => parentPort.postMessage(worker.address().port))
parentPort.on('message', ({ port, bytes }) => {
  let text = ''
  createConnection(port, '127.0.0.1')
    .setEncoding('latin1')
    .on('data', (more) => (text += more))
    .on('error', () => undefined)
    .on('close', () => parentPort.postMessage(text))
    .write(bytes)
})
`

export interface Other {
  /** Where something answers as a worker does, whatever it is asked. */
  readonly worker: string
  /** Writes these bytes to a connection; resolves with everything that came back, when it has ended. */
  exchange(port: number, bytes: Uint8Array): Promise<string>
  close(): Promise<void>
}

export async function startOther(): Promise<Other> {
  const thread = new Worker(program, { eval: true })
  const told = async <T>() => ((await once(thread, 'message')) as [T])[0]
  const port = await told<number>()
  return {
    worker: `http://127.0.0.1:${String(port)}`,
    exchange(to, bytes) {
      const text = told<string>()
      thread.postMessage({ port: to, bytes })
      return text
    },
    async close() {
      await thread.terminate()
    },
  }
}
