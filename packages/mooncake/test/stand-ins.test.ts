// System libraries that are missing: an empty file that is found first is as good as none.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import mooncake from '@kvx/mooncake'
import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest'
import { installMooncake, loopback, Peer } from './peer.ts'
import { scattered } from './plans.ts'

vi.setConfig({ testTimeout: 60_000 })
beforeAll(installMooncake, 300_000)

const folders: string[] = []
function without(...sonames: string[]): void {
  const folder = mkdtempSync(join(tmpdir(), 'kvx-without-'))
  folders.push(folder)
  for (const soname of sonames) writeFileSync(join(folder, soname), '')
  vi.stubEnv('LD_LIBRARY_PATH', folder) // of the processes that are started from here
}
afterEach(() => {
  vi.unstubAllEnvs()
})
afterAll(() => {
  for (const folder of folders) rmSync(folder, { recursive: true })
})

test('TCP between peers works without libibverbs and libcurl, and the probe says that they are missing', async () => {
  without('libibverbs.so.1', 'libcurl.so.4')
  const probe = await mooncake.probe(loopback)
  expect(probe.available).toBe(true)
  expect(probe.tried.map(({ what }) => what)).toEqual(['libibverbs.so.1', 'libcurl.so.4'])

  const size = 2 ** 20
  await using writer = new Peer(size)
  await using target = new Peer(size)
  const address = await target.open()
  await writer.open()
  await writer.ask('fill', { value: 5 })
  await writer.ask('write', { peer: address, plan: scattered(16, size / 16, (page) => 15 - page) })
  expect(await target.ask('others', { value: 5 })).toBe(0)
  await writer.ask('close')
})

test.each([
  ['libibverbs.so.1', 'libibverbs1'],
  ['libcurl.so.4', 'libcurl4'],
])('a metadata server needs %s, and the remedy names its Debian package', async (soname, name) => {
  without(soname)
  const probe = await mooncake.probe({ ...loopback, metadataServer: 'http://127.0.0.1:9/metadata' })
  expect(probe.available).toBe(false)
  expect(probe.remedy).toMatch(new RegExp(`apt install ${name}\\b`))
})

test('nothing works without libnuma, and the remedy names its Debian package', async () => {
  without('libnuma.so.1')
  const probe = await mooncake.probe(loopback)
  expect(probe.available).toBe(false)
  expect(probe.remedy).toMatch(/apt install libnuma1\b/)
})
