// The engines of kvx, and versions of their vendors' libraries, as the suites are run on them: what each is given, and which checks
// are left out for it, and why. The libraries are as published: Mooncake over TCP on the loopback device, MORI on the fake libibverbs of
// packages/mori/test/fake-verbs.
import { execFileSync } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { env } from 'node:process'
import { fileURLToPath } from 'node:url'
import * as mooncake from '@kvx/mooncake'
import * as mori from '@kvx/mori'
import { installWheel } from '@kvx/vendor'
import { buildFakeVerbs } from '../../mori/test/fake-verbs/build.mjs'

const path = (name) => fileURLToPath(new URL(name, import.meta.url))
const url = (name) => new URL(name, import.meta.url)

const tellsNobody = (what) =>
  Object.fromEntries(
    [
      'a writer is told that its owner was killed',
      'a writer is told that its owner has closed its engine',
      'an owner is told that its writer was killed, in the middle of writes',
    ].map((check) => [`peer loss: ${check}`, `${what} does not say that a peer is gone`]),
  )

const mooncakeSkips = tellsNobody('Mooncake')

/** A wheel of Mooncake that kvx does not install itself: its folder. */
async function otherMooncake(name, project, version, sha256) {
  const platform = 'manylinux_2_35_x86_64'
  const { folder } = await installWheel({
    ...{ name, version, project, files: ['mooncake/'] },
    pipArguments: ['--python-version', '3.11', '--platform', platform],
    sha256: { [`${project.replaceAll('-', '_')}-${version}-cp311-cp311-${platform}.whl`]: sha256 },
  })
  return join(folder, 'mooncake')
}

/** By the C++ symbols of the ordinary wheel. */
const mooncakeWheel = (version) => ({
  name: `mooncake ${version}`,
  skip: mooncakeSkips,
  async fixture() {
    const { folder } = await installWheel(mooncake.wheelSpec({ version }))
    const libraryPath = join(folder, 'mooncake', 'engine.so')
    return { backend: '@kvx/mooncake', options: { hostname: '127.0.0.1', libraryPath } }
  },
})

/** By the C functions of the wheel for NPUs, in which an empty library stands in for that of the NPU. */
const mooncakeFunctions = (version, sha256) => ({
  name: `mooncake ${version}, C functions`,
  skip: mooncakeSkips,
  async fixture() {
    const project = 'mooncake-transfer-engine-npu'
    const folder = await otherMooncake('mooncake-npu', project, version, sha256)
    const standIn = path('build/ascend_transport.so')
    mkdirSync(dirname(standIn), { recursive: true })
    const shared = ['-shared', '-fPIC', '-Wl,-soname,ascend_transport.so', '-o', standIn]
    execFileSync(env.CC ?? 'cc', ['-x', 'c', '/dev/null', ...shared])
    const libraryPath = join(folder, 'libtransfer_engine.so')
    return {
      backend: '@kvx/mooncake',
      environment: { LD_PRELOAD: standIn, MC_FORCE_TCP: '1' },
      options: { hostname: '127.0.0.1', libraryPath },
    }
  },
})

const moriWheel = (version) => ({
  name: `mori ${version}`,
  skip: {
    ...tellsNobody('MORI'),
    'leaks: a link, a thousand times':
      'MORI gives the queue pairs of a closed link back with its engine only: two or three descriptors each',
  },
  async fixture() {
    const { folder } = await installWheel(mori.wheelSpec({ version }))
    return {
      backend: '@kvx/mori',
      environment: { KVX_MORI_VERBS: 'fake', KVX_MORI_FAKE_VERBS: buildFakeVerbs() },
      options: { host: '127.0.0.1', libraryPath: join(folder, 'mori', 'libmori_io.so') },
    }
  },
})

/** A version that must be refused, with what the reason says. */
const refusedMooncake = {
  name: 'mooncake 0.3.10.post2',
  skip: {},
  refused: /0\.3\.12\.post1 is the (oldest version|first) that can be used/,
  async fixture() {
    const sha256 = '96a36024c9471cb4691e7001fcf77b580df1895891cc5672830432c22cfa4b15'
    const project = 'mooncake-transfer-engine'
    const folder = await otherMooncake('mooncake-old', project, '0.3.10.post2', sha256)
    const libraryPath = join(folder, 'engine.so')
    return { backend: '@kvx/mooncake', options: { hostname: '127.0.0.1', libraryPath } }
  },
}

/** On the two GPUs of the driver without any. */
export const shmOnGpus = (memory) => ({
  backend: '@kvx/shm',
  environment: { KVX_CUDA_LIBRARY: path('../../native/test/fake-cuda/build/Release/fakecuda.so') },
  memory,
  deviceWork: url('./gpu-work.mjs'),
})

export const engines = [
  { name: 'shm', skip: {}, fixture: () => ({ backend: '@kvx/shm' }) },
  {
    name: 'shm, from one GPU to another',
    skip: {},
    fixture: () =>
      shmOnGpus({ writer: { kind: 'cuda', device: 0 }, owner: { kind: 'cuda', device: 1 } }),
  },
  ...['0.3.13.post1', '0.3.13', '0.3.12.post1'].map(mooncakeWheel),
  ...Object.entries({
    '0.3.13.post1': 'dd846b8f71caff9b2488c7c6969ece25686f97c6c62ad38a574ca56ae0a93970',
    '0.3.13': 'f1d92732e07fcee14a551627da5f68620453716f5167b38f076290b2643c4b03',
    '0.3.12.post1': '16a38a59f54ace4794de5773e459457af60c3450597487c083f2360742b77ca1',
  }).map(([version, sha256]) => mooncakeFunctions(version, sha256)),
  refusedMooncake,
  ...['1.2.4', '1.2.3.post1', '1.2.3', '1.2.2'].map(moriWheel),
]
