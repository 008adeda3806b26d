/**
 * `node tools/gpu/pack.mjs FOLDER`: what a machine with GPUs needs to run tools/gpu/suite.mjs, in one folder: this Node (stripped,
 * xz), the built packages with the node_modules that they need, and the GPU tests. Under 60 MiB. Such a machine needs
 * neither a registry, nor Node, nor a compiler: unpack and run with FOLDER/run.sh.
 */
import { execFileSync } from 'node:child_process'
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, join, relative, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { root } from '../lib/repository.mjs'
import { copyZeromq } from '../native/zeromq.mjs'

const target = process.argv[2]
if (target === undefined) {
  console.error('usage: node tools/gpu/pack.mjs FOLDER')
  process.exit(2)
}
const here = dirname(fileURLToPath(import.meta.url))
const folder = resolve(target)
const work = mkdtempSync(join(tmpdir(), 'kvx-pack-'))
try {
  const tree = join(work, 'kvx')
  mkdirSync(join(tree, 'bin'), { recursive: true })
  const node = join(tree, 'bin', 'node')
  copyFileSync(process.execPath, node)
  execFileSync('strip', [node])

  const packages = ['bench', 'contract', 'core', 'mooncake', 'native', 'shm', 'vendor']
  for (const name of packages) {
    const from = join(root, 'packages', name)
    const to = join(tree, 'packages', name)
    mkdirSync(to, { recursive: true })
    copyFileSync(join(from, 'package.json'), join(to, 'package.json'))
    cpSync(join(from, 'dist'), join(to, 'dist'), { recursive: true })
    // The addon itself, and not what it was made of.
    const release = join(from, 'build', 'Release')
    for (const file of existsSync(release) ? readdirSync(release) : []) {
      if (!file.endsWith('.node')) continue
      mkdirSync(join(to, 'build', 'Release'), { recursive: true })
      copyFileSync(join(release, file), join(to, 'build', 'Release', file))
    }
    if (name === 'core') cpSync(copyZeromq(), join(to, 'prebuilds'), { recursive: true })
    linkInto(tree, name)
  }
  const taken = new Set()
  for (const name of packages)
    takeModules(join(root, 'packages', name, 'package.json'), tree, taken)

  for (const program of [
    'gpu/build/Release/gpu',
    'gpu/build/Release/beside.so',
    'fake-cuda/build/Release/fakecuda.so',
  ]) {
    const from = join(root, 'packages/native/test', program)
    if (!existsSync(from)) throw new Error(`${from} is missing: run the tests of @kvx/native once`)
    mkdirSync(dirname(join(tree, 'test', program)), { recursive: true })
    copyFileSync(from, join(tree, 'test', program))
  }
  for (const name of ['fork', 'stream']) {
    const addon = `packages/shm/test/fork/build/Release/${name}.node`
    if (!existsSync(join(root, addon))) {
      throw new Error(`${addon} is missing: run the tests of @kvx/shm once`)
    }
    mkdirSync(dirname(join(tree, addon)), { recursive: true })
    copyFileSync(join(root, addon), join(tree, addon))
  }
  cpSync(here, join(tree, 'tools', 'gpu'), { recursive: true })
  cpSync(join(root, 'examples'), join(tree, 'examples'), { recursive: true })

  mkdirSync(folder, { recursive: true })
  const packed = join(folder, 'kvx.tar.xz')
  execFileSync('tar', ['-C', work, '-cf', join(work, 'kvx.tar'), 'kvx'])
  execFileSync('xz', ['-9', '-T2', '-f', join(work, 'kvx.tar')])
  copyFileSync(join(work, 'kvx.tar.xz'), packed)
  copyFileSync(join(here, 'run.sh'), join(folder, 'run.sh'))
  const mib = statSync(packed).size / 2 ** 20
  console.log(`${packed}: ${mib.toFixed(1)} MiB`)
  if (mib > 60) throw new Error('the pack is larger than 60 MiB')
} finally {
  rmSync(work, { recursive: true, force: true })
}

/** As a workspace's link, which tar keeps. */
function linkInto(tree, name) {
  const scope = join(tree, 'node_modules', '@kvx')
  mkdirSync(scope, { recursive: true })
  execFileSync('ln', ['-s', join('..', '..', 'packages', name), join(scope, name)])
}

/** Copies the modules that a package depends on, and those that they depend on. */
function takeModules(manifest, tree, taken) {
  const { dependencies = {}, optionalDependencies = {} } = JSON.parse(
    readFileSync(manifest, 'utf8'),
  )
  for (const name of Object.keys({ ...dependencies, ...optionalDependencies })) {
    if (name.startsWith('@kvx/')) continue
    const from = [
      join(dirname(manifest), 'node_modules', name),
      join(root, 'node_modules', name),
    ].find(existsSync)
    // Headers are for building only.
    if (from === undefined || name === 'node-addon-api' || taken.has(from)) continue
    taken.add(from)
    cpSync(from, join(tree, relative(root, from)), { recursive: true, filter: needed })
    takeModules(join(from, 'package.json'), tree, taken)
  }
}

/** Prebuilt binaries of other platforms, what a module was made of, and maps are most of what it weighs. */
function needed(path) {
  if (path.endsWith('.map')) return false
  if (/\/(deps|src|docs|test)$/.test(path) && !isLoaded(path)) return false
  const platform = /\/(?:prebuilds|build)\/(darwin|win32|linux)/.exec(path)
  return platform === null || platform[1] === 'linux'
}

/** Whether a module is loaded from this folder of it: what it was made of may be what it is. */
function isLoaded(path) {
  const manifest = join(dirname(path), 'package.json')
  if (!existsSync(manifest)) return true // a folder further down
  const { main, module, exports, bin } = JSON.parse(readFileSync(manifest, 'utf8'))
  const entries = JSON.stringify([main, module, exports, bin])
  return entries.includes(`"${basename(path)}/`) || entries.includes(`"./${basename(path)}/`)
}
