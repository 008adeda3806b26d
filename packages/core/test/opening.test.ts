/** Does an opener that fails at any step leave nothing behind that keeps the host's process alive? */
import { spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'

let folder = ''
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'kvx-opening-'))
})
afterAll(() => {
  rmSync(folder, { recursive: true })
})

const core = JSON.stringify(new URL('../dist/index.js', import.meta.url).href)
const prologue = `
  import { BootstrapServer, KVManager, silentLog } from ${core}
  const token = 'a token for tests'
  const at = { host: '127.0.0.1', port: 0, token, log: silentLog }
  const shape = {
    model: 'm', layers: 1, components: [{ name: 'kv', addressed: 'tokens',
      tensors: [{ layer: 0, part: 'k', dtype: 'f16', units: 1, unitBytes: 64 }] }],
  }
  const place = {
    components: { kv: { pageTokens: 16, pages: 1 } },
    tensors: [{ component: 'kv', layer: 0, part: 'k', region: 0, base: 0, pageBytes: 1024, order: 'NHD' }],
  }
  // An engine that, like a real one, keeps the process alive until it is closed.
  const backend = (fail = '') => ({
    [Symbol.for('@kvx/backend')]: 2, name: 'test', probe: async () => ({ available: true, tried: [] }),
    open: async (_, { generation }) => {
      const alive = setInterval(() => undefined, 1_000)
      return {
        identity: { backend: 'test', version: '1', generation }, address: new Uint8Array(1),
        capabilities: { memoryKinds: ['cpu'], crossHost: true, fence: 'engine', maxSegmentBytes: 1024, minEfficientRun: 1 },
        register: async () => {
          if (fail === 'register') throw new Error('cannot be registered')
          return { descriptor: new Uint8Array(1) }
        },
        connect: async () => { throw new Error('not needed') }, fence: async () => undefined,
        close: async () => clearInterval(alive),
      }
    },
  })
  const memory = [{ address: 4096n, bytes: 1024, kind: 'cpu', device: 0 }]
  const manager = (options) => KVManager.open({ role: 'prefill', backend: backend(), shape, place, memory, token, host: '127.0.0.1',
    bootstrap: 'tcp://127.0.0.1:1', log: silentLog, ...options })
`

/** What a process says that opens something and catches the failure. It must then end by itself. */
async function failureOf(open: string, env: Record<string, string> = {}): Promise<string> {
  const script = `${prologue} await (${open}).then(() => console.log('open'), (error) => console.log(error.code ?? '', error.message))`
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let said = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (data: Buffer) => (said += data.toString()))
  }
  const [code, signal] = await new Promise<unknown[]>((resolve) => {
    child.once('close', (...how) => {
      resolve(how)
    })
  })
  expect([code, signal], said).toEqual([0, null])
  return said
}

const missing = () => join(folder, 'missing')

test.each([
  ['a bootstrap service', 'BootstrapServer.open(at)'],
  ['a prefill manager', 'manager({})'],
])('%s without a temporary folder names it and TMPDIR, and nothing stays open', async (_, open) => {
  const said = await failureOf(open, { TMPDIR: missing() })
  expect(said).toMatch(/^ERR_KVX_ADDRESS_UNAVAILABLE /)
  expect(said).toContain(`the temporary folder ${missing()}`)
  expect(said).toContain('Set TMPDIR to a folder that can be written.')
})

test.each([
  ['a host that is not here', "BootstrapServer.open({ ...at, host: '192.0.2.1' })", 'ADDRESS_'],
  ['a short token', "BootstrapServer.open({ ...at, token: 'short' })", 'INVALID_OPTION'],
  [
    'a port in use',
    'BootstrapServer.open(at).then((one) => BootstrapServer.open({ ...at, port: one.port }).finally(() => one.close()))',
    'ADDRESS_',
  ],
  ['memory that cannot be registered', "manager({ backend: backend('register') })", 'registered'],
  ['a control host that is not here', "manager({ host: '192.0.2.1' })", 'ADDRESS_'],
  ['a malformed bootstrap address', "manager({ bootstrap: 'nowhere' })", 'INVALID_OPTION'],
  ['a short token of a manager', "manager({ token: 'short' })", 'INVALID_OPTION'],
])('after %s nothing stays open', async (_, open, code) => {
  const said = await failureOf(open)
  expect(said).not.toBe('open\n')
  expect(said).toContain(code)
  expect(said.trim().split('\n')).toHaveLength(1)
})

test('a temporary folder whose path is too long for a socket does', async () => {
  const long = join(folder, 'x'.repeat(120))
  mkdirSync(long)
  const said = await failureOf('BootstrapServer.open(at).then((one) => one.close())', {
    TMPDIR: long,
  })
  expect(said).toBe('open\n')
  expect(readdirSync(long)).toEqual([])
})
