/**
 * `npm run prebuild:native [-- TARGET… | --all]`: compiles the addons for machines without a compiler, into `prebuilds/` of their
 * packages. Without arguments for this machine's processor and glibc. Targets: see `targets`.
 *
 * zig's compiler serves: it has the symbols of every glibc, also for other processors, and links its own C++ library
 * into the addon. An addon that exchanges objects with a vendor's library needs GCC's, which is shared: it is compiled by this
 * machine's compiler, for this machine's processor, and as old as this machine's glibc.
 *
 * libzmq is not compiled: its builds are copied, for all platforms at once (zeromq.mjs).
 */
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { cacheFolder, packages, root } from '../lib/repository.mjs'
import { pipTool } from '../lib/pip-tool.mjs'
import { elapsed } from '../lib/run.mjs'
import { compileAddon, systemToolchain } from '../../packages/native/dist/compile/compile.js'
import { recipeOf } from '../../packages/native/dist/sources.js'
import { copyZeromq } from './zeromq.mjs'

/** Names as Node and node-gyp-build have them, and zig's. glibc 2.28 is that of RHEL 8 and Debian 10, the oldest that Node 20 runs on. */
const targets = {
  'linux-x64-glibc': 'x86_64-linux-gnu.2.28',
  'linux-x64-musl': 'x86_64-linux-musl',
  'linux-arm64-glibc': 'aarch64-linux-gnu.2.28',
  'linux-arm64-musl': 'aarch64-linux-musl',
}

const zig = pipTool({ name: 'ziglang', version: '0.17.1', path: 'ziglang/zig' })

const stripped = { link: ['-s'] }

function zigToolchain(program, target) {
  process.env.ZIG_GLOBAL_CACHE_DIR = join(cacheFolder, 'zig')
  process.env.ZIG_LOCAL_CACHE_DIR = join(cacheFolder, 'zig')
  return {
    c: [program, 'cc', '-target', target],
    cxx: [program, 'c++', '-target', target],
    ...stripped,
  }
}

/** Resolves to the path of the file, or to undefined where the package is not for this target. */
async function prebuild(path, target) {
  const recipe = recipeOf(join(root, path))
  const [system, processor, libc] = target.split('-')
  const platform = `${system}-${processor}`
  if (recipe?.platforms !== undefined && !recipe.platforms.includes(platform)) return undefined
  const own = platform === `${process.platform}-${process.arch}` && libc === 'glibc'
  if (recipe?.libstdcxx === true && !own) return undefined
  const output = { folder: join(root, path, 'prebuilds', platform), suffix: `.${libc}` }
  const build = join(root, path, 'build')
  return recipe?.libstdcxx === true
    ? compileAddon(
        join(root, path),
        { ...output, objects: join(build, 'objects') },
        { ...systemToolchain(), ...stripped },
      )
    : compileAddon(
        join(root, path),
        { ...output, objects: join(build, `objects-${target}`) },
        zigToolchain(await zig.get(), targets[target]),
      )
}

const given = process.argv.slice(2)
const wanted = given.includes('--all')
  ? Object.keys(targets)
  : given.length > 0
    ? given
    : [`linux-${process.arch}-glibc`]
const unknown = wanted.find((target) => targets[target] === undefined)
if (unknown !== undefined) {
  console.error(`${unknown} is no target; targets are ${Object.keys(targets).join(', ')}, or --all`)
  process.exit(2)
}
const withAddon = packages.filter((path) => recipeOf(join(root, path)) !== undefined)
if (given.includes('--all')) {
  for (const path of withAddon) {
    rmSync(join(root, path, 'prebuilds'), { recursive: true, force: true })
  }
}
for (const path of withAddon) {
  for (const target of wanted) {
    const started = Date.now()
    const file = await prebuild(path, target)
    console.log(
      file === undefined
        ? `${path}: not for ${target}`
        : `${file.slice(root.length + 1)}: ${elapsed(started)}`,
    )
  }
}
console.log(`${copyZeromq().slice(root.length + 1)}: copied`)
