// The npu wheel holds a libtransfer_engine.so with the C functions. It runs without an NPU when an empty library stands
// in for its Ascend transport, which LD_PRELOAD does for the processes of this test.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import mooncake from '@kvx/mooncake'
import { installWheel } from '@kvx/vendor'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { Peer } from './peer.ts'
import { scattered } from './plans.ts'

vi.setConfig({ testTimeout: 60_000 })
const scratch = mkdtempSync(join(tmpdir(), 'kvx-mooncake-c-'))
let libraryPath: string

beforeAll(async () => {
  const platform = 'manylinux_2_35_x86_64'
  const { folder } = await installWheel({
    name: 'mooncake-npu',
    version: '0.3.13.post1',
    project: 'mooncake-transfer-engine-npu',
    pipArguments: ['--python-version', '3.11', '--platform', platform],
    sha256: {
      [`mooncake_transfer_engine_npu-0.3.13.post1-cp311-cp311-${platform}.whl`]:
        'dd846b8f71caff9b2488c7c6969ece25686f97c6c62ad38a574ca56ae0a93970',
    },
    files: ['mooncake/'],
  })
  libraryPath = join(folder, 'mooncake', 'libtransfer_engine.so')
  const standIn = join(scratch, 'ascend_transport.so')
  execFileSync('cc', [
    '-x',
    'c',
    '/dev/null',
    '-shared',
    '-fPIC',
    '-Wl,-soname,ascend_transport.so',
    '-o',
    standIn,
  ])
  vi.stubEnv('LD_PRELOAD', standIn)
}, 300_000)

afterAll(() => {
  vi.unstubAllEnvs()
  rmSync(scratch, { recursive: true })
})

test('a library that would end the process when an engine is made is refused', async () => {
  const { available, tried } = await mooncake.probe({ hostname: '127.0.0.1', libraryPath })
  expect(available).toBe(false)
  expect(tried[0]?.reason).toMatch(/ended with code 127; this process was spared/)
})

test('the C functions move the same bytes, and the probe says that they are used', async () => {
  vi.stubEnv('MC_FORCE_TCP', '1')
  const options = { hostname: '127.0.0.1', libraryPath }
  const { available, library } = await mooncake.probe(options)
  expect(available).toBe(true)
  expect(library).toMatch(/by its C functions/)

  const size = 2 ** 24
  const pages = 256
  await using writer = new Peer(size)
  await using target = new Peer(size)
  const address = await target.open(options)
  await writer.open(options)
  await writer.ask('randomize')
  await writer.ask('write', {
    peer: address,
    plan: scattered(pages, size / pages, (page) => pages - 1 - page),
  })
  const source = (await writer.ask('bytes')) as Uint8Array
  const expected = Buffer.alloc(size)
  const bytes = size / pages
  for (let page = 0; page < pages; page++) {
    expected.set(source.subarray(page * bytes, (page + 1) * bytes), (pages - 1 - page) * bytes)
  }
  expect(expected.equals((await target.ask('bytes')) as Uint8Array)).toBe(true)
  await writer.ask('close')
  await target.ask('close')
})
