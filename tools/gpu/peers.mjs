/**
 * `node tools/gpu/peers.mjs FOLDER`: writes FOLDER/peers.tar.xz, the parts of NIXL and of Mooncake that the section `peers` of the
 * suite measures beside kvx, and with which the section `mooncake` runs @kvx/mooncake. They come from PyPI, for Python 3.12; the machine with GPUs needs torch, and no registry. Under 30 MiB.
 */
import { execFileSync } from 'node:child_process'
import {
  cpSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, join, relative, resolve } from 'node:path'

const wheels = ['nixl-cu13==1.5.1', 'mooncake-transfer-engine-cuda13==0.3.14']
const nixlLibraries = ['.nixl_cu13.mesonpy.libs', 'nixl_cu13.libs']
const mooncakeLibraries = ['mooncake', 'mooncake_transfer_engine_cuda13.libs']

const target = process.argv[2]
if (target === undefined) {
  console.error('usage: node tools/gpu/peers.mjs FOLDER')
  process.exit(2)
}
const folder = resolve(target)
const work = mkdtempSync(join(tmpdir(), 'kvx-peers-'))
try {
  const wheel = [
    ...['--no-deps', '--only-binary=:all:', '--python-version', '3.12', '--implementation', 'cp'],
    ...['--platform', 'manylinux_2_28_x86_64', '--dest', work],
  ]
  execFileSync('python3', ['-m', 'pip', 'download', '--quiet', ...wheel, ...wheels])
  const from = join(work, 'all')
  for (const name of readdirSync(work).filter((file) => file.endsWith('.whl'))) {
    execFileSync('python3', ['-m', 'zipfile', '-e', join(work, name), from])
  }
  const to = join(work, 'peers')
  cpSync(join(from, 'nixl_cu13'), join(to, 'nixl_cu13'), { recursive: true })
  take(
    [
      ...filesOf(join(from, 'nixl_cu13')).filter((path) => path.endsWith('.so')),
      join(from, '.nixl_cu13.mesonpy.libs/plugins/libplugin_UCX.so'),
      ...['uct_cuda', 'ucm_cuda', 'uct_cma'].map((name) =>
        join(from, `nixl_cu13.libs/ucx/lib${name}.so.0.0.0`),
      ),
    ],
    nixlLibraries,
  )

  mkdirSync(join(to, 'mooncake'))
  for (const name of ['__init__.py', 'engine.so']) {
    copyFileSync(join(from, 'mooncake', name), join(to, 'mooncake', name))
  }
  take([join(from, 'mooncake/engine.so')], mooncakeLibraries)
  for (const name of readdirSync(from).filter((folder) => /^mooncake.*\.dist-info$/.test(folder))) {
    mkdirSync(join(to, name))
    copyFileSync(join(from, name, 'METADATA'), join(to, name, 'METADATA'))
  }
  // Its libraries for RDMA and HTTP come from the system, which may have none; those of NIXL's wheel do as well.
  mkdirSync(join(to, 'lib'))
  for (const name of ['libibverbs.so.1', 'libmlx5.so.1', 'libnuma.so.1', 'libcurl.so.4']) {
    const stem = `${name.slice(0, name.indexOf('.'))}-`
    const file = filesOf(join(from, 'nixl_cu13.libs')).find((path) =>
      basename(path).startsWith(stem),
    )
    if (file === undefined) throw new Error(`NIXL's wheel has no ${name}.`)
    take([file], nixlLibraries)
    symlinkSync(relative(join(to, 'lib'), copyOf(file)), join(to, 'lib', name))
  }
  // Its client of etcd is 20 MB that are only asked for when a metadata server is; its functions have to be there at load.
  const functions = ['NewEtcdClient', 'EtcdCloseWrapper', 'EtcdGetWrapper', 'EtcdDeleteWrapper']
  const source = [...functions, 'EtcdPutWrapper'].map((name) => `int ${name}(void) { return -1; }`)
  writeFileSync(join(work, 'etcd.c'), source.join('\n'))
  const etcd = join(to, 'mooncake/libetcd_wrapper.so')
  execFileSync('cc', ['-shared', '-fPIC', '-o', etcd, join(work, 'etcd.c')])

  mkdirSync(folder, { recursive: true })
  const packed = join(folder, 'peers.tar.xz')
  execFileSync('tar', ['-C', work, '-cf', join(work, 'peers.tar'), 'peers'])
  execFileSync('xz', ['-9', '-T2', '-f', join(work, 'peers.tar')])
  copyFileSync(join(work, 'peers.tar.xz'), packed)
  const mib = statSync(packed).size / 2 ** 20
  console.log(`${packed}: ${mib.toFixed(1)} MiB`)
  if (mib > 30) throw new Error('the pack is larger than 30 MiB')
} finally {
  rmSync(work, { recursive: true, force: true })
}

/** Copies libraries, and those that they need and that lie in the given folders of the wheels. */
function take(files, folders) {
  const from = join(work, 'all')
  const known = new Map(
    folders.flatMap((name) => filesOf(join(from, name)).map((path) => [basename(path), path])),
  )
  const taken = new Set()
  const rest = [...files]
  for (let file = rest.pop(); file !== undefined; file = rest.pop()) {
    if (taken.has(file)) continue
    taken.add(file)
    mkdirSync(dirname(copyOf(file)), { recursive: true })
    copyFileSync(file, copyOf(file))
    const dynamic = execFileSync('readelf', ['-d', file], { encoding: 'utf8' })
    for (const [, name] of dynamic.matchAll(/\(NEEDED\).*\[(.*)\]/g)) {
      // The etcd client is replaced.
      if (known.has(name) && name !== 'libetcd_wrapper.so') rest.push(known.get(name))
    }
  }
}

function copyOf(file) {
  return join(work, 'peers', relative(join(work, 'all'), file))
}

function filesOf(path) {
  return readdirSync(path, { withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map(({ name }) => join(path, name))
}
