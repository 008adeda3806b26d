/** Does whatever keeps a command from starting end it, with one sentence, whoever started it? */
import { spawnSync } from 'node:child_process'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { cacheFolder } from '@kvx/vendor'
import { patience } from './support/cluster.ts'
import { command, kvxWith } from './support/command.ts'

const small = ['--context-length', '64', '--max-running-requests', '1']
const worker = (mode: string, ...more: string[]) => [
  ...['serve', '--disaggregation-mode', mode, '--port', '0'],
  ...['--disaggregation-bootstrap-port', '0', ...small, ...more],
]
const alone = (...more: string[]) => ['serve', '--port', '0', ...small, ...more]
const router = ['router', '--prefill', 'http://127.0.0.1:1', '--decode', 'http://127.0.0.1:1']

let folder = ''
/** In the cache of this machine, so that none of these pulls it. */
const model = join(cacheFolder(), 'models', 'SmolLM2-135M-Instruct.Q4_1.gguf')
const inFolder = (name: string) => join(folder, name)
const taken = createServer()
const port = () => String((taken.address() as AddressInfo).port)

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kvx-starting-'))
  await writeFile(inFolder('file'), 'no folder')
  await writeFile(inFolder('short'), 'short', { mode: 0o600 })
  await writeFile(inFolder('damaged.gguf'), `GGUF\u0003${'\0'.repeat(19)}`)
  await mkdir(inFolder('empty'))
  // A python3 that has neither pip nor any package.
  await mkdir(inFolder('bin'))
  await writeFile(inFolder('bin/python3'), '#!/bin/sh\nexit 1\n', { mode: 0o755 })
  await new Promise<void>((resolve) => {
    taken.listen(0, '127.0.0.1', resolve)
  })
})
afterAll(async () => {
  taken.close()
  await rm(folder, { recursive: true })
})

interface Row {
  readonly args: readonly string[]
  readonly env?: Record<string, string | undefined>
  readonly says: RegExp
  readonly code?: number
}

const noFolder = () => inFolder('missing')
const noLibrary = () => ({
  KVX_CACHE: inFolder('empty'),
  PATH: `${inFolder('bin')}:${process.env.PATH ?? ''}`,
})

test.each<[string, () => Row]>([
  [
    'a prefill worker without a temporary folder',
    () => ({
      args: worker('prefill'),
      env: { TMPDIR: noFolder() },
      says: /temporary folder \S+missing.*Set TMPDIR/,
    }),
  ],
  [
    'a prefill worker whose temporary folder cannot be written',
    () => ({
      args: worker('prefill'),
      env: { TMPDIR: '/sys' },
      says: /temporary folder \/sys.*Set TMPDIR/,
    }),
  ],
  [
    'up without a temporary folder',
    () => ({
      args: ['up', '--port', '0', ...small],
      env: { TMPDIR: noFolder() },
      says: /^kvx: prefill-1 ended before it was ready \(exit code 1\)/,
    }),
  ],
  [
    'up --once without a temporary folder',
    () => ({
      args: ['up', '--once', 'Hi', ...small],
      env: { TMPDIR: noFolder() },
      says: /^kvx: prefill-1 ended before it was ready \(exit code 1\)/,
    }),
  ],
  [
    'a worker on a port in use',
    () => ({ args: ['serve', '--port', port(), ...small], says: /is in use/ }),
  ],
  [
    'a prefill worker whose bootstrap port is in use',
    () => ({
      args: [
        ...['serve', '--disaggregation-mode', 'prefill', '--port', '0', ...small],
        ...['--disaggregation-bootstrap-port', port()],
      ],
      says: /the port is in use/,
    }),
  ],
  ['a router on a port in use', () => ({ args: [...router, '--port', port()], says: /is in use/ })],
  [
    'up on a port in use',
    () => ({
      args: ['up', '--port', port(), ...small],
      says: /^kvx: router ended before it was ready/,
    }),
  ],
  [
    'a worker on an address of another machine',
    () => ({ args: alone('--host', '192.0.2.1'), says: /192\.0\.2\.1 is no address/ }),
  ],
  [
    'a worker without a model',
    () => ({ args: alone('--model', inFolder('none.gguf')), says: /none\.gguf/ }),
  ],
  [
    'a worker with a damaged model',
    () => ({ args: alone('--model', inFolder('damaged.gguf')), says: /damaged\.gguf/ }),
  ],
  [
    'up with a damaged model',
    () => ({
      args: ['up', '--port', '0', '--model', inFolder('damaged.gguf')],
      says: /damaged\.gguf|ended before it was ready/,
    }),
  ],
  [
    'a worker for other machines without a token',
    () => ({
      args: worker('decode', '--host', '0.0.0.0'),
      env: { KVX_TOKEN: undefined },
      says: /needs a token: set KVX_TOKEN/,
      code: 2,
    }),
  ],
  [
    'a worker with a short token',
    () => ({
      args: worker('decode', '--token-file', inFolder('short')),
      says: /16 bytes/,
      code: 2,
    }),
  ],
  [
    'a worker that can keep no shared token',
    () => ({
      args: worker('decode'),
      env: { KVX_TOKEN: undefined, XDG_CONFIG_HOME: inFolder('file') },
      says: /cannot be kept in .*Set KVX_TOKEN or give --token-file/,
      code: 2,
    }),
  ],
  [
    'a worker with an unknown backend',
    () => ({ args: worker('decode', '--transfer-backend', 'nixie'), says: /'nixie'/ }),
  ],
  [
    'a worker whose backend has no library',
    () => ({
      args: worker('decode', '--transfer-backend', 'mori', '--model', model),
      env: noLibrary(),
      says: /kvx backend install mori/,
    }),
  ],
  [
    'a worker whose cache cannot be written',
    () => ({ args: alone(), env: { KVX_CACHE: inFolder('file') }, says: /KVX_CACHE/ }),
  ],
  [
    'up whose cache cannot be written',
    () => ({
      args: ['up', '--port', '0', ...small],
      env: { KVX_CACHE: inFolder('file') },
      says: /KVX_CACHE/,
    }),
  ],
  [
    'a worker that wants a longer context than the model has',
    () => ({ args: ['serve', '--port', '0', '--context-length', '999999'], says: /999999/ }),
  ],
])(
  '%s ends with one sentence',
  async (_, row) => {
    const { args, env = {}, says, code = 1 } = row()
    const ended = await kvxWith({ env }, ...args)
    expect(ended).toMatchObject({ code, stdout: '' })
    expect(ended.lastWords).toMatch(/^kvx: \S[^\n]*$/)
    expect(ended.lastWords).toMatch(says)
    expect(ended.lastWords).not.toContain('an unexpected error')
  },
  patience,
)

test.each([
  // What first meets the limit differs: a folder of the command, a package that it imports, a library.
  ...[20, 38, 64, 110, 140, 158, 200, 255].map((files): [string, RegExp] => [
    `-n ${String(files)}`,
    new RegExp(
      `^kvx: This process may open ${String(files)} files and sockets, which is too few: raise the limit \\(ulimit -n 4096\\)\\.$`,
    ),
  ]),
  ['-v 6000000', /may use 6144000000 bytes of address space.*\(ulimit -v unlimited\)\.$/],
])('a worker under ulimit %s names that limit', (limit, says) => {
  const line = `ulimit ${limit}; exec "$0" "$@"`
  const args = [process.execPath, command, ...alone('--model', model)]
  const { status, stderr } = spawnSync('bash', ['-c', line, ...args], { encoding: 'utf8' })
  expect(status).toBe(1)
  expect(stderr.trimEnd().split('\n').at(-1)).toMatch(says)
})

const once = [
  ...[process.execPath, command, 'up', '--once', 'Hi', '--max-tokens', '2', '--json'],
  ...small,
]

test('a worker whose working directory is gone serves all the same', () => {
  const gone = `mkdir ${inFolder('gone')}; cd ${inFolder('gone')}; rmdir ${inFolder('gone')}; exec "$0" "$@"`
  const { stdout, stderr } = spawnSync('bash', ['-c', gone, ...once], { encoding: 'utf8' })
  expect(stderr).toContain('the working directory is gone: relative paths are taken from /')
  expect(JSON.parse(stdout)).toMatchObject({ equal: true })
})

const cannotMount =
  spawnSync('unshare', ['-m', 'mount', '-t', 'tmpfs', 'none', '/dev/shm']).status !== 0

test.skipIf(cannotMount)(
  'a worker without /dev/shm serves all the same (skipped where nothing can be mounted: not root)',
  () => {
    const without = 'mount -t tmpfs -o ro none /dev/shm; exec "$0" "$@"'
    const args = ['-m', 'bash', '-c', without, ...once]
    const { stdout, stderr } = spawnSync('unshare', args, { encoding: 'utf8' })
    expect(JSON.parse(stdout), stderr).toMatchObject({ equal: true })
  },
)
