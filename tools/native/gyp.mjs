// Builds what the binding.gyp of a folder names: addons, programs and libraries of tests and benchmarks.
// node-gyp alone would fetch Node's headers from the network; here they come from the Node that runs this.
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join, resolve } from 'node:path'

const folder = resolve(process.argv[2] ?? '.')
const debug = process.argv.includes('--debug')

const missing = [
  {
    commands: [process.env.CXX ?? 'c++', 'g++', 'clang++'],
    what: 'a C++20 compiler',
    get: 'apt-get install g++   (or: dnf install gcc-c++)',
  },
  { commands: ['make'], what: 'make', get: 'apt-get install make   (or: dnf install make)' },
  {
    commands: [process.env.PYTHON ?? 'python3', 'python3'],
    what: 'Python 3',
    get: 'apt-get install python3   (or: dnf install python3)',
  },
].filter(({ commands }) => !commands.some(runs))
if (missing.length > 0) {
  for (const { what, get } of missing)
    console.error(`Building the native addons needs ${what}. Get it with: ${get}`)
  process.exit(1)
}
if (!existsSync(join(folder, 'binding.gyp'))) {
  console.error(
    `There is no binding.gyp in ${folder}: run this in the folder of a package with an addon.`,
  )
  process.exit(1)
}

const prefix = dirname(dirname(process.execPath))
const environment = { ...process.env }
if (existsSync(join(prefix, 'include/node/node_api.h'))) environment.npm_config_nodedir = prefix

const nodeGyp = createRequire(import.meta.url).resolve('node-gyp/bin/node-gyp.js')
const steps = existsSync(join(folder, 'build/Makefile')) ? ['configure', 'build'] : ['rebuild']
for (const step of steps) {
  const { status } = spawnSync(
    process.execPath,
    [nodeGyp, step, '-j', '2', '--silent', ...(debug ? ['--debug'] : [])],
    { cwd: folder, env: environment, stdio: ['ignore', 'inherit', 'inherit'] },
  )
  if (status !== 0) {
    console.error(
      `The native addon in ${folder} could not be built (node-gyp ${step}); the compiler's message is above.`,
    )
    process.exit(1)
  }
}

function runs(command) {
  return spawnSync(command, ['--version'], { stdio: 'ignore' }).status === 0
}
