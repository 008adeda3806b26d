/**
 * `node tools/native/zeromq.mjs`: copies zeromq.js into `prebuilds/` of @kvx/core, with its builds for Linux alone and without the
 * loader that brings a whole build tool along. ADR 17 says why.
 */
import { copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { root } from '../lib/repository.mjs'

/** Of several builds for a platform the one that asks for the oldest libraries. */
const builds = {
  'linux-x64/zeromq.glibc.node': 'linux/x64/node/glibc-127-Release/addon.node',
  'linux-x64/zeromq.musl.node': 'linux/x64/node/musl-127-Release/addon.node',
  'linux-arm64/zeromq.glibc.node': 'linux/arm64/node/glibc-127-Release/addon.node',
  'linux-arm64/zeromq.musl.node': 'linux/arm64/node/musl-127-Release/addon.node',
}

const core = join(root, 'packages', 'core')

/** @returns `target`, in which nothing else is left */
export function copyZeromq(target = join(core, 'prebuilds')) {
  const manifest = createRequire(join(core, 'package.json')).resolve('zeromq/package.json')
  const source = dirname(manifest)
  rmSync(target, { recursive: true, force: true })
  mkdirSync(join(target, 'zeromq'), { recursive: true })
  for (const name of ['index.js', 'draft.js', 'util.js']) {
    const text = readFileSync(join(source, 'lib', name), 'utf8')
    writeFileSync(join(target, 'zeromq', name), text.replace(/\n\/\/# sourceMappingURL=.*/, '\n'))
  }
  for (const name of ['LICENSE.txt', 'LICENSE_MPL-2.0.txt']) {
    copyFileSync(join(source, name), join(target, 'zeromq', name))
  }
  copyFileSync(join(import.meta.dirname, 'zeromq-native.cjs'), join(target, 'zeromq', 'native.js'))
  const { name, version, license, author, homepage } = JSON.parse(readFileSync(manifest, 'utf8'))
  writeFileSync(
    join(target, 'zeromq', 'package.json'),
    `${JSON.stringify({ name, version, license, author, homepage, type: 'commonjs', private: true }, null, 2)}\n`,
  )
  for (const [name, file] of Object.entries(builds)) {
    mkdirSync(dirname(join(target, name)), { recursive: true })
    copyFileSync(join(source, 'build', file), join(target, name))
  }
  return target
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) console.log(copyZeromq())
