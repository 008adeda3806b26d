/** Is a backend found from where the host is, and does each way of failing say what to do? */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { loadBackend } from '../src/backend/index.ts'
import { Loopback } from './support/loopback.ts'

const good = (name: string, version = 2) => `export default {
  [Symbol.for('@kvx/backend')]: ${String(version)},
  name: '${name}',
  probe: async () => ({ available: true, tried: [] }),
  open: async () => { throw new Error('not needed') },
}`

let host = ''

beforeAll(async () => {
  host = await mkdtemp(join(tmpdir(), 'kvx-host-'))
  const add = async (name: string, source: string) => {
    const folder = join(host, 'node_modules', name)
    await mkdir(folder, { recursive: true })
    const manifest = { name, version: '1.0.0', type: 'module', exports: './index.js' }
    await writeFile(join(folder, 'package.json'), JSON.stringify(manifest))
    await writeFile(join(folder, 'index.js'), source)
  }
  await add('@kvx/fast', good('fast'))
  await add('their-engine', good('their-engine'))
  await add('no-engine', 'export default { name: "no-engine" }')
  await add('old-engine', good('old-engine', 7))
  await add('broken-engine', 'throw new Error("libfast.so is missing")')
  await writeFile(join(host, 'local.mjs'), good('local'))
})

afterAll(() => rm(host, { recursive: true, force: true }))

test.each([
  ['a short name', 'fast', 'fast'],
  ['the name of any package', 'their-engine', 'their-engine'],
  ['a path', './local.mjs', 'local'],
])('%s is found from the folder of the host', async (_what, name, expected) => {
  expect((await loadBackend(name, { from: host })).name).toBe(expected)
})

test('a backend object is taken as it is', async () => {
  const { backend } = new Loopback()
  expect(await loadBackend(backend, { from: host })).toBe(backend)
})

test.each([
  ["kvx's own and missing", 'mori', 'ERR_KVX_BACKEND_NOT_INSTALLED', 'npm install @kvx/mori'],
  ['missing', 'absent', 'ERR_KVX_BACKEND_NOT_INSTALLED', 'kvx has shm, mooncake, mori'],
  ['a path to nothing', './none.mjs', 'ERR_KVX_BACKEND_NOT_INSTALLED', 'no such file as seen from'],
  ['a module of Node itself', 'zlib', 'ERR_KVX_BACKEND_NOT_INSTALLED', "no package '@kvx/zlib'"],
  ['no backend', 'no-engine', 'ERR_KVX_BACKEND_INVALID', "Symbol.for('@kvx/backend')"],
  ['of another contract version', 'old-engine', 'ERR_KVX_BACKEND_INVALID', 'version 7'],
  ['broken', 'broken-engine', 'ERR_KVX_BACKEND_UNAVAILABLE', 'libfast.so is missing'],
])('a package that is %s is refused with what to do', async (_what, name, code, text) => {
  const failure = await loadBackend(name, { from: host }).catch((error: unknown) => error)
  expect(failure).toMatchObject({ code, message: expect.stringContaining(text) as string })
})

test('nobody is told to install a package that does not exist', async () => {
  for (const name of ['absent', 'zlib', './none.mjs', '@them/engine']) {
    await expect(loadBackend(name, { from: host })).rejects.toThrow(/^(?!.*npm install)/)
  }
})
