/**
 * Makes a fresh clone ready: npm packages, TypeScript, C++ addons, the demo model. A step is left out
 * while its inputs have the content they had when it last succeeded and its outputs are there.
 *
 * Only Node built-ins here and in lib/, because nothing is installed yet. Nothing goes to stdout,
 * which belongs to the command that follows.
 */
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { userInfo } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { cacheFolder, filesBelow, kvxCommand, packages, root } from './lib/repository.mjs'
import { missing } from './lib/requirements.mjs'
import { elapsed, run } from './lib/run.mjs'

const demoModel = 'smollm2'

const say = (text) => process.stderr.write(`${text}\n`)
const inPackages = (...names) => packages.flatMap((path) => names.map((name) => `${path}/${name}`))
const bin = (name) => join(root, 'node_modules', '.bin', name)
const manifests = ['package.json', 'package-lock.json', '.npmrc', ...inPackages('package.json')]

/**
 * In order; a step may use what the steps before it have made. `needs` are names of requirements.
 * Without `inputs` a step is due only while its output is missing.
 */
const steps = [
  {
    name: 'npm packages',
    needs: ['npm'],
    inputs: () => manifests,
    done: () => existsSync(join(root, 'node_modules', '.package-lock.json')),
    // Not `npm ci`: it refuses a lock file made where the registry lacks the packages of some other
    // platform, while `npm install` takes the same lock and installs the versions it names.
    // Without saving: npm would add those packages where the registry has them, and leave a changed
    // lock file in a fresh clone.
    // Without scripts: every package we use brings its binary or works without one.
    command: () => [
      'npm',
      'install',
      '--no-save',
      '--no-audit',
      '--no-fund',
      '--ignore-scripts',
      '--loglevel=error',
    ],
  },
  {
    name: 'TypeScript',
    needs: [],
    inputs: () => [...manifests, 'tsconfig.base.json', ...inPackages('tsconfig.json', 'src')],
    done: () => packages.every((path) => existsSync(join(root, path, 'dist', '.tsbuildinfo'))),
    command: () => [bin('tsc'), '-b', ...packages],
  },
  {
    name: 'C++ addons',
    needs: ['cxx20', 'make', 'python'],
    inputs: () => [
      'package-lock.json',
      'nx.json',
      'packages/native/src',
      ...inPackages('package.json', 'native', 'include'),
    ],
    done: () =>
      packages.every(
        (path) => !existsSync(join(root, path, 'native', 'addon.json')) || hasAddon(path),
      ),
    command: () => [bin('nx'), 'run-many', '-t', 'native', '--output-style=static'],
  },
  {
    name: `model ${demoModel}`,
    needs: ['pip'],
    done: hasModel,
    command: () => [process.execPath, kvxCommand, 'model', 'pull', demoModel],
  },
]

function hasAddon(path) {
  const folder = join(root, path, 'build', 'Release')
  return existsSync(folder) && readdirSync(folder).some((file) => file.endsWith('.node'))
}

/** The folder is the one that `cacheFolder()` of @kvx/vendor gives, which is not built yet. */
function hasModel() {
  const { KVX_CACHE, XDG_CACHE_HOME } = process.env
  const folder = join(
    KVX_CACHE || join(XDG_CACHE_HOME || join(homeFolder(), '.cache'), 'kvx'),
    'models',
  )
  const isDemoModel = (file) => file.toLowerCase().startsWith(demoModel) && file.endsWith('.gguf')
  return existsSync(folder) && readdirSync(folder).some(isDemoModel)
}

/** Empty for a user who has none: pulling the model then says what to do. */
function homeFolder() {
  try {
    return process.env.HOME || userInfo().homedir
  } catch {
    return ''
  }
}

/** Stands for everything that a step's result depends on: its inputs, its command, the Node it is for. */
function fingerprint(step) {
  const hash = createHash('sha256')
  hash.update(JSON.stringify([step.command(), process.arch, process.versions.modules]))
  for (const file of filesBelow(step.inputs())) {
    hash.update(`\0${file}\0`).update(readFileSync(join(root, file)))
  }
  return hash.digest('hex')
}

const readLock = () => readFileSync(join(root, 'package-lock.json'), 'utf8')

const stampFile = join(cacheFolder, 'setup.json')

function readStamps() {
  try {
    return JSON.parse(readFileSync(stampFile, 'utf8'))
  } catch {
    return {} // first run, or a damaged file: everything is done again
  }
}

const isDue = (step, stamps) =>
  !step.done() || (step.inputs !== undefined && stamps[step.name] !== fingerprint(step))

/** Whether the step has succeeded; if not, stderr has said why. */
async function perform(step, title) {
  const started = Date.now()
  if (!process.stderr.isTTY) say(`kvx: ${title}`)
  const [command, ...args] = step.command()
  const locked = readLock()
  const { ok, output, reason } = await run(title, command, args)
  const unlocked = readLock() !== locked
  if (ok && step.done() && !unlocked) {
    say(`kvx: ${title}: ${elapsed(started)}`)
    return true
  }
  const why = unlocked
    ? 'it changed package-lock.json, which only a change of dependencies may'
    : (reason ?? 'it ended well, but what it should make is not there')
  say(`${output.trimEnd()}\n\nkvx: ${title}: failed, ${why}\n  ${step.command().join(' ')}`)
  return false
}

/**
 * Resolves to the names of the steps that failed; stderr has said why. The first failure ends it,
 * unless `keepGoing`, with which only a failure that makes all else impossible does.
 */
export async function setUp({ alsoNeeds = [], keepGoing = false } = {}) {
  const stamps = readStamps()
  const due = steps.filter((step) => isDue(step, stamps))
  const lack = missing(['linux', 'node', ...due.flatMap((step) => step.needs), ...alsoNeeds])
  if (lack !== undefined) {
    say(lack)
    return ['requirements']
  }
  const failed = []
  for (const [index, step] of due.entries()) {
    if (await perform(step, `set-up ${index + 1}/${due.length}, ${step.name}`)) {
      if (step.inputs !== undefined) stamps[step.name] = fingerprint(step)
      mkdirSync(cacheFolder, { recursive: true })
      writeFileSync(stampFile, `${JSON.stringify(stamps, null, 2)}\n`)
    } else {
      failed.push(step.name)
      if (!keepGoing || step === steps[0]) break
    }
  }
  return failed
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  if ((await setUp()).length > 0) process.exitCode = 1
}
