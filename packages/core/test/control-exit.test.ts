import { spawn } from 'node:child_process'
import { expect, test } from 'vitest'

/** Runs a script against the built package in a process of its own; its exit code or signal, and output. */
function run(
  script: string,
): Promise<{ code: number | null; signal: string | null; output: string }> {
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    cwd: import.meta.dirname,
  })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      output += chunk.toString()
    })
  }
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code, signal) => {
      resolve({ code, signal, output })
    })
  })
}

const control = JSON.stringify(new URL('../dist/control/index.js', import.meta.url).href)
const prologue = `
  import { ControlServer, ControlClient } from ${control}
  const log = { debug() {}, info() {}, warn() {}, error() {} }
  const both = { token: 'a token for tests', log }
  const server = await ControlServer.bind({ ...both, host: '127.0.0.1', port: 0, onMessage: (c, m) => c.send(m) })
  const client = await new Promise((resolve) => {
    const made = ControlClient.connect({
      ...both, endpoint: server.endpoint, onUp: () => made.send({}), onDown() {}, onMessage: () => resolve(made),
    })
  })
`

test.each([
  ['after everything is closed, by itself', `${prologue} client.close(); await server.close()`],
  ['after the server is closed first', `${prologue} await server.close(); client.close()`],
  ['while everything is open', `${prologue} process.exit(0)`],
  [
    'with messages on their way',
    `${prologue} for (let i = 0; i < 500; i += 1) client.send({ i }); process.exit(0)`,
  ],
  [
    'with a client that finds nobody',
    `${prologue} await server.close(); setTimeout(() => process.exit(0), 50)`,
  ],
])('a process ends cleanly %s', async (_, script) => {
  expect(await run(script)).toEqual({ code: 0, signal: null, output: '' })
})

test('opening and closing hundreds of servers and clients at once ends no process', async () => {
  const script = `
    import { ControlServer, ControlClient } from ${control}
    const log = { debug() {}, info() {}, warn() {}, error() {} }
    const both = { token: 'a token for tests', log }
    for (let round = 0; round < 100; round += 1) {
      const server = await ControlServer.bind({ ...both, host: '127.0.0.1', port: 0, onMessage: (c, m) => c.send(m) })
      const clients = await Promise.all([1, 2, 3].map(() => new Promise((resolve) => {
        const made = ControlClient.connect({
          ...both, endpoint: server.endpoint, onUp: () => made.send({}), onDown() {}, onMessage: () => resolve(made),
        })
      })))
      if (round % 2 === 0) { for (const client of clients) client.close(); await server.close() }
      else { await server.close(); for (const client of clients) client.close() }
    }`
  expect(await run(script)).toEqual({ code: 0, signal: null, output: '' })
})
