/**
 * `npm run test:packages [-- --quick]`, or with --help: what a stranger does. Packs every published package, serves the archives from a
 * registry of its own on loopback, and installs them into empty folders, with nothing but Node, npm and a shell on the PATH and without
 * install scripts. The registry passes everything else on to the one that npm is configured with.
 *
 * A line per cell; the last line counts. What is in the whole matrix and what in `--quick`, which `.ci/run` takes, `usage` says.
 */
import { execFile, spawnSync } from 'node:child_process'
import {
  appendFileSync,
  existsSync,
  copyFileSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import verdaccio from 'verdaccio'
import { recipeOf } from '../packages/native/dist/sources.js'
import { kvxCommand, published, readJson, root } from './lib/repository.mjs'
import { elapsed, run as runShown } from './lib/run.mjs'
import { copyZeromq } from './native/zeromq.mjs'

const execute = promisify(execFile)
const versions = { 20: '20.20.2', 22: '22.23.5', 24: '24.22.3' }
const managers = { pnpm: '10.34.8', yarn: '1.22.22' }
/** Of all that is installed, in bytes. */
const limits = { shm: 45e6, kvx: 60e6 }
const usage = `usage: npm run test:packages [-- --quick]

Publishes every package to a registry of its own and installs them as strangers do: no compiler, no install script.

                                      all          --quick
  compiled files                      by zig, as   what set-up has
                                      in a release compiled here
  npm, pnpm and yarn install          yes          yes
  a transfer between processes (ESM)  Node 20, 22  the Node that
  require() of the packages           and 24 each  runs this
  TypeScript: nodenext and bundler    with each    with npm
  sizes, no install script            yes          yes
  compiled files missing, broken,     yes          yes
  of another machine or other sources
  symbols of glibc that files need    yes
  kvx doctor, kvx up --once           yes          yes

The last line counts. The first run makes the compiled files, which takes minutes.`
if (process.argv.includes('--help')) {
  console.log(usage)
  process.exit()
}
const quick = process.argv.includes('--quick')
const ownMajor = Number(process.versions.node.split('.')[0])

const work = mkdtempSync(join(tmpdir(), 'kvx-packages-'))
const counts = { passed: 0, failed: 0 }

async function cell(name, action) {
  const started = Date.now()
  try {
    const note = await action()
    counts.passed++
    console.log(`ok      ${name}  (${elapsed(started)})${note === undefined ? '' : `  ${note}`}`)
  } catch (error) {
    counts.failed++
    const said = `${error.stdout ?? ''}${error.stderr ?? ''}`.trim()
    console.log(`FAILED  ${name}  (${elapsed(started)}): ${error.message}\n${said}`)
  }
}

/** The registry lives in this process, on a port that the system chooses. */
async function startRegistry() {
  const upstream = (
    await execute('npm', ['config', 'get', 'registry'], { cwd: root })
  ).stdout.trim()
  const ours = { access: '$all', publish: '$all', unpublish: '$all' }
  const server = await verdaccio.runServer({
    self_path: work,
    configPath: join(work, 'config.yaml'),
    storage: join(work, 'storage'),
    uplinks: { upstream: { url: upstream, timeout: '60s', max_fails: 20 } },
    packages: { '@kvx/*': ours, kvx: ours, '**': { access: '$all', proxy: 'upstream' } },
    max_body_size: '100mb',
    log: { type: 'stdout', level: 'fatal' },
  })
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  return { server, url: `http://127.0.0.1:${server.address().port}/` }
}

/** A folder that is the whole PATH: one Node, npm and a shell, no compiler, no make, no Python. */
function pathWith(node, name) {
  const folder = join(work, `bin-${name}`)
  mkdirSync(folder)
  symlinkSync(node, join(folder, 'node'))
  for (const tool of ['sh', 'env', 'uname', 'getconf', 'ldd', 'npm']) {
    const file = whereIs(tool)
    if (file !== '') symlinkSync(file, join(folder, tool))
  }
  return folder
}

function whereIs(name) {
  const file = spawnSync('sh', ['-c', `readlink -f "$(command -v ${name})"`], { encoding: 'utf8' })
  return file.stdout.trim()
}
const npmCli = whereIs('npm')

let registry

function environment(bin, folder) {
  return {
    PATH: bin,
    HOME: folder,
    KVX_CACHE: join(work, 'cache'),
    npm_config_registry: registry,
    npm_config_ignore_scripts: 'true',
    npm_config_audit: 'false',
    npm_config_fund: 'false',
    npm_config_update_notifier: 'false',
    npm_config_cache: join(work, 'npm-cache'),
    YARN_REGISTRY: registry,
    YARN_CACHE_FOLDER: join(work, 'yarn-cache'),
    NO_COLOR: '1',
  }
}

const start = (bin, folder, args, more = {}) =>
  execute(join(bin, 'node'), args, {
    cwd: folder,
    env: { ...environment(bin, folder), ...more },
    timeout: 300_000,
    maxBuffer: 16 << 20,
  })

function emptyProject(name) {
  const folder = join(work, name)
  mkdirSync(folder)
  writeFileSync(join(folder, 'package.json'), '{ "name": "stranger", "private": true }\n')
  return folder
}

function sizeOf(path) {
  const stat = lstatSync(path)
  if (!stat.isDirectory()) return stat.size
  return readdirSync(path).reduce((sum, name) => sum + sizeOf(join(path, name)), 0)
}
const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`

/** The largest of what lies in `node_modules`. */
function largest(folder) {
  const names = readdirSync(join(folder, 'node_modules')).flatMap((name) =>
    name.startsWith('@')
      ? readdirSync(join(folder, 'node_modules', name)).map((inner) => `${name}/${inner}`)
      : [name],
  )
  return names
    .map((name) => [name, sizeOf(join(folder, 'node_modules', name))])
    .sort((a, b) => b[1] - a[1])
    .slice(0, 4)
    .map(([name, bytes]) => `${name} ${megabytes(bytes)}`)
    .join(', ')
}

/** Newest versions of symbols that the addon of a package may want; ADR 16 says why. */
const newest = {
  core: { GLIBC: '2.28', GLIBCXX: '3.4.22', CXXABI: '1.3.11', GCC: '3.0' },
  native: { GLIBC: '2.28' },
  shm: { GLIBC: '2.28' },
  mooncake: { GLIBC: '2.34', GLIBCXX: '3.4.30', CXXABI: '1.3.13', GCC: '3.4' },
  mori: { GLIBC: '2.34', GLIBCXX: '3.4.30', CXXABI: '1.3.13', GCC: '3.4' },
}
const numbers = (version) => version.split('.').map(Number)
const isNewer = (a, b) => {
  const [left, right] = [numbers(a), numbers(b)]
  const at = left.findIndex((value, i) => value !== (right[i] ?? 0))
  return at >= 0 && left[at] > (right[at] ?? 0)
}

/** Of the file that was packed, and installed in `folder`. */
async function symbols(folder, name) {
  const prebuilds = join(folder, 'node_modules', '@kvx', name, 'prebuilds')
  const own = join(prebuilds, `linux-${process.arch}`)
  const file = readdirSync(own).find((one) => one.endsWith('.glibc.node'))
  const { stdout } = await execute('objdump', ['-T', join(own, file)])
  const found = {}
  for (const [, family, version] of stdout.matchAll(/\b(GLIBC|GLIBCXX|CXXABI|GCC)_([\d.]+)/g)) {
    if (found[family] === undefined || isNewer(version, found[family])) found[family] = version
  }
  if (found.GLIBC === undefined) throw new Error(`objdump names no symbol of glibc in ${file}`)
  for (const [family, version] of Object.entries(found)) {
    const limit = newest[name][family]
    if (limit === undefined || isNewer(version, limit)) {
      throw new Error(`${file} wants ${family}_${version}, and may want ${limit ?? 'none'}`)
    }
  }
  const list = Object.entries(found).map(([family, version]) => `${family}_${version}`)
  return `${list.join(', ')}; ${megabytes(lstatSync(join(own, file)).size)}`
}

/** Four prefill ranks write into two decode ranks, a process each; these compare every byte with what was to arrive. */
async function transfer(bin, folder) {
  copyFileSync(join(root, 'examples', 'ranks.mjs'), join(folder, 'ranks.mjs'))
  const { stdout } = await start(bin, folder, ['ranks.mjs'])
  const ends = stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))
  const decodes = ends.filter(({ role }) => role === 'decode')
  const arrived = decodes.filter(({ wrong, firstToken }) => wrong === 0 && firstToken === 42)
  const bytes = arrived.reduce((sum, one) => sum + one.bytes, 0)
  if (ends.length !== 6 || arrived.length !== 2 || bytes === 0) throw new Error(stdout)
  return `${bytes} bytes arrived, from 4 processes in 2`
}

async function required(bin, folder) {
  const program = `const { allocate } = require('@kvx/native'); console.log(allocate(64).bytes, typeof require('@kvx/core').KVManager.open)`
  const { stdout } = await start(bin, folder, ['-e', program])
  expectIncludes(stdout, '64 function')
}

function expectIncludes(text, part) {
  if (!text.includes(part)) throw new Error(`wanted "${part}" in: ${text}`)
}

async function typesOf(bin, folder, options) {
  writeFileSync(
    join(folder, 'types.ts'),
    `import { KVManager, type KvxError } from '@kvx/core'
import { allocate } from '@kvx/native'
import shm from '@kvx/shm'
export const open: typeof KVManager.open = KVManager.open
export const name: string = shm.name
export const bytes: number = allocate(64).bytes
export const code = (error: KvxError): string => error.code
// @ts-expect-error: not a number of bytes
allocate('64')
`,
  )
  const tsc = join(root, 'node_modules', 'typescript', 'bin', 'tsc')
  const args = ['--noEmit', '--strict', '--target', 'es2023', '--types', 'node', ...options]
  const types = join(root, 'node_modules', '@types')
  await start(bin, folder, [tsc, ...args, '--typeRoots', types, 'types.ts'])
}
const resolutions = {
  nodenext: ['--module', 'nodenext', '--moduleResolution', 'nodenext'],
  bundler: ['--module', 'esnext', '--moduleResolution', 'bundler'],
}

/** What `program` prints, a sentence with `parts`, while `file` is as `damage(file, content)` leaves it. */
async function refusal(bin, folder, { file, damage, program, parts }) {
  const whole = readFileSync(file)
  try {
    damage(file, whole)
    const { stdout } = await start(bin, folder, ['--input-type=module', '-e', program])
    for (const part of parts) expectIncludes(stdout, part)
    if (stdout.trim().includes('\n')) throw new Error(`more than a line: ${stdout}`)
    return stdout.trim().replaceAll(work, '')
  } finally {
    writeFileSync(file, whole)
  }
}
const tellError = (action) =>
  `try { ${action}; console.log('it worked') } catch (error) { console.log(error.code, error.message) }`

/** Of a file that is for this machine: a copy for the other processor. */
function forAnotherProcessor(file, whole) {
  const copy = Buffer.from(whole)
  copy.writeUInt16LE(process.arch === 'x64' ? 183 : 62, 18) // e_machine: AArch64, x86-64
  writeFileSync(file, copy)
}

async function refusals(bin, folder) {
  const native = join(folder, 'node_modules', '@kvx', 'native')
  const file = join(native, 'prebuilds', `linux-${process.arch}`, 'kvx_native.glibc.node')
  const program = tellError(`(await import('@kvx/native')).allocate(64)`)
  const parts = ['ERR_KVX_BACKEND_UNAVAILABLE', 'npx @kvx/native build @kvx/native']
  const source = join(
    native,
    'native',
    readdirSync(join(native, 'native')).find((name) => name.endsWith('.cc')),
  )
  const libzmq = join(
    folder,
    'node_modules',
    '@kvx',
    'core',
    'prebuilds',
    `linux-${process.arch}`,
    'zeromq.glibc.node',
  )
  const control = {
    file: libzmq,
    program: tellError(`await import('@kvx/core')`),
    parts: ['ERR_KVX_BACKEND_UNAVAILABLE', 'libzmq'],
  }
  const missing = (path) => rmSync(path)
  /** The folder has files then, but none for this processor. */
  const moved = (path) => {
    const other = join(dirname(dirname(path)), 'linux-s390x')
    mkdirSync(other)
    renameSync(path, join(other, 'kvx_native.glibc.node'))
  }
  const text = (path) => writeFileSync(path, 'text')
  const all = {
    'an addon that is missing': { file, program, parts, damage: missing },
    'an addon for other platforms only': {
      file,
      program,
      parts: [...parts, `has none for linux-${process.arch} (glibc), only`, 'linux-s390x/'],
      damage: moved,
    },
    'an addon that is cut short': {
      file,
      program,
      parts,
      damage: (path, whole) => writeFileSync(path, whole.subarray(0, 1000)),
    },
    'an addon that is none': { file, program, parts, damage: text },
    'an addon of another processor': { file, program, parts, damage: forAnotherProcessor },
    'an addon of other sources': {
      file: source,
      program,
      parts,
      damage: (path) => appendFileSync(path, '// changed'),
    },
    'libzmq that is missing': { ...control, damage: missing },
    'libzmq that is none': { ...control, damage: text },
  }
  for (const [name, one] of Object.entries(all)) await cell(name, () => refusal(bin, folder, one))
}

/** npm notes in the lock file what has a script that it would run. */
function noInstallScript(folder) {
  const { packages } = JSON.parse(readFileSync(join(folder, 'package-lock.json'), 'utf8'))
  const withScript = Object.keys(packages).filter((path) => packages[path].hasInstallScript)
  if (withScript.length > 0) throw new Error(withScript.join(', '))
  return `${Object.keys(packages).length - 1} packages`
}

function checkSize(folder, limit) {
  const bytes = sizeOf(join(folder, 'node_modules'))
  const note = `${megabytes(bytes)} of at most ${megabytes(limit)}: ${largest(folder)}`
  if (bytes > limit) throw new Error(note)
  return note
}

/** The demo model is here from set-up; everything else of the cache of kvx is as on a new machine. */
async function newCache() {
  const pulled = await runShown('model', process.execPath, [kvxCommand, 'model', 'pull', 'smollm2'])
  if (!pulled.ok) throw new Error(pulled.output)
  mkdirSync(join(work, 'cache'))
  symlinkSync(dirname(pulled.output.trim().split('\n').at(-1)), join(work, 'cache', 'models'))
}

async function installManager(bin, name) {
  const tool = emptyProject(`${name}-itself`)
  await start(bin, tool, [npmCli, 'install', '--loglevel=error', `${name}@${managers[name]}`])
  const folder = join(tool, 'node_modules', name)
  const manifest = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'))
  return join(folder, manifest.bin[name])
}

const wanted = ['@kvx/core', '@kvx/shm', '@kvx/native']

async function tryManager(bins, manager, majors, kinds) {
  const folder = emptyProject(manager)
  const own = bins[ownMajor]
  await cell(`${manager}: install ${wanted.join(' ')}`, async () => {
    if (manager === 'npm') {
      await start(own, folder, [npmCli, 'install', '--loglevel=error', ...wanted])
      return `${noInstallScript(folder)} without an install script; ${checkSize(folder, limits.shm)}`
    }
    const entry = await installManager(own, manager)
    await start(bins[majors[0]], folder, [entry, 'add', '--ignore-scripts', ...wanted])
  })
  for (const major of majors) {
    await cell(`${manager}, Node ${major}, ESM`, () => transfer(bins[major], folder))
    await cell(`${manager}, Node ${major}, CommonJS`, () => required(bins[major], folder))
  }
  for (const name of kinds) {
    await cell(`${manager}, TypeScript, ${name}`, () => typesOf(own, folder, resolutions[name]))
  }
  return folder
}

async function tryCommand(bin) {
  const folder = emptyProject('kvx')
  const kvx = (...args) => start(bin, folder, [npmCli, 'exec', '--', 'kvx', ...args])
  await cell('npm: install kvx', async () => {
    await start(bin, folder, [npmCli, 'install', '--loglevel=error', 'kvx'])
    if (existsSync(join(folder, 'node_modules', '@node-llama-cpp'))) {
      throw new Error('builds of llama.cpp came unasked')
    }
    return `${noInstallScript(folder)} without an install script; ${checkSize(folder, limits.kvx)}`
  })
  for (const name of quick ? [] : Object.keys(newest)) {
    await cell(`symbols of @kvx/${name}`, () => symbols(folder, name))
  }
  await cell('npx kvx doctor shm', async () => {
    const { stdout } = await kvx('doctor', 'shm')
    expectIncludes(stdout, '✓ shm')
    return stdout.split('\n')[1].trim()
  })
  await cell('llama.cpp that is not installed', async () => {
    const model = join(
      work,
      'cache',
      'models',
      readdirSync(join(work, 'cache', 'models')).find((name) => name.endsWith('.gguf')),
    )
    const program = `import { LlamaModel } from '@kvx/llama'
${tellError(`await LlamaModel.load({ path: ${JSON.stringify(model)} })`)}`
    const { stdout } = await start(bin, folder, ['--input-type=module', '-e', program])
    expectIncludes(stdout, 'ERR_KVX_MODEL llama.cpp is not installed')
    return stdout.trim()
  })
  const answer = async () => {
    const prompt = 'The capital of France is'
    // prettier-ignore
    const { stdout, stderr } = await kvx('up', '--once', prompt, '--max-tokens', '8', '--json')
    const {
      equal,
      backend,
      transfer: { bytes },
    } = JSON.parse(stdout)
    if (!equal) throw new Error(stdout)
    return { note: `equal to one process's, ${bytes} bytes moved by ${backend}`, stderr }
  }
  await cell('npx kvx up --once, which fetches llama.cpp', async () => {
    const { note, stderr } = await answer()
    expectIncludes(stderr, 'installing llama.cpp')
    return `${note}; llama.cpp takes ${megabytes(sizeOf(join(work, 'cache', 'llama.cpp')))}`
  })
  await cell('npx kvx up --once again', async () => {
    const { note, stderr } = await answer()
    if (stderr.includes('installing')) throw new Error(stderr)
    return note
  })
}

/** The folder whose workspaces are published: the repository, with what zig has compiled. */
async function withReleaseFiles() {
  const made = await runShown('prebuilt addons', process.execPath, ['tools/native/prebuild.mjs'])
  if (!made.ok) throw new Error(`the prebuilt addons could not be made\n${made.output}`)
  return root
}

/** A copy of what npm packs, with what set-up has compiled: only for this machine, but nothing is compiled for it. */
async function withOwnFiles() {
  const staged = join(work, 'staged')
  mkdirSync(staged)
  const args = ['pack', '--ignore-scripts', '--loglevel=error', `--pack-destination=${staged}`]
  await execute('npm', [...args, ...published.map((path) => `--workspace=${path}`)], { cwd: root })
  for (const path of published) {
    const { name, version } = readJson(`${path}/package.json`)
    const target = join(staged, path.split('/').at(-1))
    mkdirSync(target)
    const archive = `${name.replace('@', '').replace('/', '-')}-${version}.tgz`
    await execute('tar', ['-xzf', join(staged, archive), '-C', target, '--strip-components=1'])
    const recipe = recipeOf(join(root, path))
    if (recipe === undefined) continue
    const [made, prebuilds] = [join(root, path, 'build', 'Release'), join(target, 'prebuilds')]
    rmSync(prebuilds, { recursive: true, force: true })
    const own = join(prebuilds, `linux-${process.arch}`)
    mkdirSync(own, { recursive: true })
    copyFileSync(join(made, `${recipe.name}.node`), join(own, `${recipe.name}.glibc.node`))
    for (const { soname } of recipe.libraries ?? [])
      copyFileSync(join(made, soname), join(own, soname))
  }
  copyZeromq(join(staged, 'core', 'prebuilds'))
  const workspaces = published.map((path) => path.split('/').at(-1))
  writeFileSync(join(staged, 'package.json'), JSON.stringify({ private: true, workspaces }))
  return staged
}

async function main() {
  const folder = await (quick ? withOwnFiles() : withReleaseFiles())
  await newCache()
  const { server, url } = await startRegistry()
  registry = url
  try {
    const home = join(work, 'home')
    mkdirSync(home)
    writeFileSync(join(home, '.npmrc'), `${url.slice(5)}:_authToken=none\n`)
    const bins = { [ownMajor]: pathWith(process.execPath, String(ownMajor)) }
    const own = bins[ownMajor]
    await cell('publish every package', async () => {
      // prettier-ignore
      const args = ['publish', '--workspaces', '--ignore-scripts', '--loglevel=error', '--provenance=false', `--userconfig=${join(home, '.npmrc')}`]
      const { stdout } = await start(own, folder, [npmCli, ...args], { HOME: home })
      return stdout.trim().replaceAll('\n', ' ')
    })
    for (const [major, version] of quick ? [] : Object.entries(versions)) {
      if (bins[major] !== undefined) continue
      await cell(`Node ${major} from npm`, async () => {
        const project = emptyProject(`node-${major}`)
        const name = `node-linux-${process.arch}`
        // prettier-ignore
        await start(own, project, [npmCli, 'install', '--loglevel=error', `${name}@${version}`])
        bins[major] = pathWith(join(project, 'node_modules', name, 'bin', 'node'), major)
        return (await start(bins[major], project, ['--version'])).stdout.trim()
      })
    }
    const majors = Object.keys(bins)
    const kinds = Object.keys(resolutions)
    const installed = await tryManager(bins, 'npm', majors, kinds)
    await refusals(own, installed)
    // Another Node than npm's runs the other managers, where there is one.
    for (const manager of Object.keys(managers)) {
      majors.push(majors.shift())
      await tryManager(bins, manager, majors, quick ? [] : kinds)
    }
    await tryCommand(own)
  } finally {
    server.close()
    server.closeAllConnections()
  }
}

try {
  await main()
} finally {
  rmSync(work, { recursive: true, force: true })
}
if (counts.failed > 0) process.exitCode = 1
console.log(`${counts.passed} passed, ${counts.failed} failed`)
process.exit()
