import { chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import mori, { supportedVersions, wheelSpec } from '@kvx/mori'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { findLibrary } from '../src/library.ts'

let folder: string
const { KVX_CACHE: cache, PATH: path } = process.env

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kvx-mori-library-'))
  process.env.KVX_CACHE = join(folder, 'cache')
  process.env.PATH = folder
})

afterEach(async () => {
  process.env.PATH = path
  if (cache === undefined) delete process.env.KVX_CACHE
  else process.env.KVX_CACHE = cache
  await rm(folder, { recursive: true })
})

/** A folder that looks like MORI's package. */
async function package_(name: string, version: string | undefined): Promise<string> {
  const place = join(folder, name)
  await mkdir(place, { recursive: true })
  await writeFile(join(place, 'libmori_io.so'), '')
  if (version !== undefined)
    await writeFile(join(place, '_version.py'), `__version__ = '${version}'\n`)
  return place
}

async function installed(version: string): Promise<string> {
  const name = `cache/backends/mori/${version}`
  const place = await package_(join(name, 'mori'), version)
  const manifest = { name: 'mori', version, sha256: '0', from: 'pip' }
  await writeFile(join(folder, name, 'kvx-wheel.json'), JSON.stringify(manifest))
  return join(place, 'libmori_io.so')
}

test.each(supportedVersions)('MORI %s is taken', async (version) => {
  const place = await package_('some', version)
  expect((await findLibrary(place)).library).toEqual({
    path: join(place, 'libmori_io.so'),
    version,
  })
  expect((await findLibrary(join(place, 'libmori_io.so'))).library?.version).toBe(version)
})

test.each(['1.1.1', '1.2.1', '1.2.5', '2.0.0', '1.2.4.dev3'])(
  'MORI %s is refused with the reason',
  async (version) => {
    const { library, tried } = await findLibrary(await package_('some', version))
    expect(library).toBeUndefined()
    expect(tried).toEqual([
      { what: expect.any(String) as string, reason: expect.stringContaining(version) as string },
    ])
  },
)

test('a library without a version beside it is refused', async () => {
  const { library, tried } = await findLibrary(await package_('some', undefined))
  expect(library).toBeUndefined()
  expect(tried[0]?.reason).toContain('version')
})

test('a given path is the only one that is tried', async () => {
  await installed('1.2.4')
  const { library, tried } = await findLibrary(join(folder, 'nowhere'))
  expect(library).toBeUndefined()
  expect(tried).toEqual([{ what: join(folder, 'nowhere/libmori_io.so'), reason: 'no such file' }])
})

test('of the installed versions the default one is taken, else the newest', async () => {
  await installed('1.2.2')
  const newest = await installed('1.2.3')
  expect((await findLibrary(undefined)).library?.path).toBe(newest)
  const preferred = await installed('1.2.4')
  expect((await findLibrary(undefined)).library?.path).toBe(preferred)
})

test('the package of the python3 on the PATH comes last', async () => {
  const place = await package_('site-packages/mori', '1.2.3')
  await writeFile(join(folder, 'python3'), `#!/bin/sh\necho ${place}\n`)
  await chmod(join(folder, 'python3'), 0o755)
  process.env.PATH = `${folder}${delimiter}${path ?? ''}`
  expect((await findLibrary(undefined)).library).toEqual({
    path: join(place, 'libmori_io.so'),
    version: '1.2.3',
  })
  const preferred = await installed('1.2.2')
  expect((await findLibrary(undefined)).library?.path).toBe(preferred)
})

test('without MORI, probe says what was tried and how to get it, and open refuses', async () => {
  const probe = await mori.probe()
  expect(probe).toMatchObject({
    available: false,
    remedy: expect.stringContaining('kvx backend install mori') as string,
  })
  expect(probe.tried.map(({ what }) => what)).toEqual(['the cache of kvx', 'python3'])
  const log = {
    debug: () => undefined,
    info: () => undefined,
    warn: () => undefined,
    error: () => undefined,
  }
  await expect(mori.open({}, { generation: 'a'.repeat(32), log })).rejects.toMatchObject({
    code: 'ERR_KVX_BACKEND_UNAVAILABLE',
    message: expect.stringContaining('kvx backend install mori') as string,
  })
})

test('only the versions that are supported can be installed', () => {
  expect(wheelSpec().version).toBe('1.2.4')
  expect(() => wheelSpec({ version: '1.2.1' })).toThrow(/1\.2\.1.*supported are 1\.2\.4/)
  expect(() => wheelSpec({ flavour: 'cuda' })).toThrow('no flavours')
})
