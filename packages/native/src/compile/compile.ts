import { spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, readdirSync, statSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'
import { KvxError } from '@kvx/contract'
import { fingerprintMark, fingerprintOf, headersFor, recipeOf, type Recipe } from '../sources.ts'

/** Commands with their first arguments, and what they are given beyond kvx's own flags. */
export interface Toolchain {
  readonly c: readonly string[]
  readonly cxx: readonly string[]
  /** For every C++ file. */
  readonly compile?: readonly string[]
  /** For linking C++. */
  readonly link?: readonly string[]
}

export interface Output {
  /** Receives the addon and the libraries beside it. */
  readonly folder: string
  /** Receives object files, which are used again while nothing that they depend on is newer. */
  readonly objects: string
  /** Added to the addon's name: `.glibc`. */
  readonly suffix?: string
}

const shared = ['-fPIC', '-O2', '-Wall', '-Wextra', '-pthread']
// Without RTTI and with wrapping arithmetic of pointers, like Node itself.
const cxxFlags = ['-std=gnu++20', '-fvisibility=hidden', '-fno-rtti', '-fno-strict-aliasing']
// nodelete: Node unloads an addon when its worker ends; code of a thread that is just returning must stay.
const linkFlags = ['-shared', '-pthread', '-Wl,-z,nodelete']

/** The compiler that `CXX` names, or else the system's. */
export function systemToolchain(env: NodeJS.ProcessEnv = process.env): Toolchain {
  const words = (text = '', otherwise: string): string[] => {
    const given = text.split(' ').filter((word) => word !== '')
    return given.length > 0 ? given : [otherwise]
  }
  return { c: words(env.CC, 'cc'), cxx: words(env.CXX, 'c++') }
}

/**
 * Compiles the addon of the package in `folder`, and the libraries beside it, as its `native/addon.json` says. It takes a
 * C++20 compiler; the headers of Node's C interface come from a package, so that it does not matter how Node got here.
 *
 * @returns the path of the addon
 * @throws KvxError `ERR_KVX_INVALID_ARGUMENT` where the package has no addon; `ERR_KVX_BACKEND_UNAVAILABLE` where the
 * machine has no compiler, or the compiler refuses, which has then said why on stderr
 */
export async function compileAddon(
  folder: string,
  output: Output = {
    folder: join(folder, 'build', 'Release'),
    objects: join(folder, 'build', 'objects'),
  },
  tools: Toolchain = systemToolchain(),
): Promise<string> {
  const recipe = recipeOf(folder)
  if (recipe === undefined) {
    throw new KvxError(
      'ERR_KVX_INVALID_ARGUMENT',
      `${folder} has no native/addon.json: no addon of kvx is compiled from it.`,
    )
  }
  checkCompiler(tools)
  mkdirSync(output.folder, { recursive: true })
  mkdirSync(output.objects, { recursive: true })
  for (const library of recipe.libraries ?? []) await compileLibrary(folder, library, output, tools)

  const { resolve } = createRequire(import.meta.url)
  const includes = [
    headersFor(folder),
    dirname(resolve('node-addon-api')),
    join(dirname(resolve('node-api-headers')), 'include'),
  ]
  const command = [...tools.cxx, ...shared, ...cxxFlags, ...(tools.compile ?? [])].concat(
    includes.map((include) => `-I${include}`),
  )
  const sources = readdirSync(join(folder, 'native'))
    .filter((file) => file.endsWith('.cc'))
    .sort()
  const objects = sources.map((file) => join(output.objects, `${file}.o`))
  const native = join(folder, 'native')
  const jobs = sources.map((file, i) => () => compileFile(command, join(native, file), objects[i]!))
  await atOnce(jobs, availableParallelism())

  const stamp = writeFingerprint(folder, output.objects)
  const addon = join(output.folder, `${recipe.name}${output.suffix ?? ''}.node`)
  const link = [...tools.cxx, ...linkFlags, ...objects, stamp, '-o', addon, ...(tools.link ?? [])]
  await run([...link, '-ldl'])
  return addon
}

/** A C file with the fingerprint of the sources, which an addon carries so that it can be told from another's. */
function writeFingerprint(folder: string, objects: string): string {
  const file = join(objects, 'fingerprint.cc')
  const text = `${fingerprintMark}${fingerprintOf(folder)}`
  writeFileSync(
    file,
    `extern "C" __attribute__((visibility("default"), used)) const char kvx_compiled_from[] = "${text}";\n`,
  )
  return file
}

async function compileLibrary(
  folder: string,
  library: NonNullable<Recipe['libraries']>[number],
  output: Output,
  tools: Toolchain,
): Promise<void> {
  const path = (file: string): string => join(folder, 'native', file)
  const versions =
    library.versionScript === undefined
      ? []
      : [`-Wl,--version-script=${path(library.versionScript)}`]
  // prettier-ignore
  await run([
    ...tools.c, ...shared, '-shared', `-Wl,-soname,${library.soname}`, ...versions,
    ...library.sources.map(path), '-o', join(output.folder, library.soname),
  ])
}

async function compileFile(
  command: readonly string[],
  source: string,
  object: string,
): Promise<void> {
  const whole = [...command, '-c', source, '-o', object]
  const commandFile = `${object}.command`
  const unchanged =
    existsSync(commandFile) && readFileSync(commandFile, 'utf8') === whole.join('\n')
  if (unchanged && isNewerThanItsSources(object)) return
  await run([...whole, '-MMD', '-MF', `${object}.d`])
  writeFileSync(commandFile, whole.join('\n'))
}

/** By the list of files that the compiler has written beside the object. */
function isNewerThanItsSources(object: string): boolean {
  try {
    const made = statSync(object).mtimeMs
    const [, list = ''] = readFileSync(`${object}.d`, 'utf8').split(/:\s/, 2)
    const files = list
      .replaceAll('\\\n', ' ')
      .split(/(?<!\\)\s+/)
      .filter((file) => file !== '')
    return files.every((file) => statSync(file.replaceAll('\\ ', ' ')).mtimeMs < made)
  } catch {
    return false
  }
}

function checkCompiler({ cxx: [command = 'c++', ...args] }: Toolchain): void {
  const probe = spawnSync(command, [...args, '--version'], { stdio: 'ignore' })
  if (probe.error === undefined && probe.status === 0) return
  throw new KvxError(
    'ERR_KVX_BACKEND_UNAVAILABLE',
    `The compiler ${command} does not run on this machine. Install a C++20 compiler ` +
      '(apt-get install g++, dnf install gcc-c++ or apk add g++), or name one by CXX.',
  )
}

async function atOnce(jobs: readonly (() => Promise<void>)[], width: number): Promise<void> {
  const queue = [...jobs]
  const worker = async (): Promise<void> => {
    for (let job = queue.shift(); job !== undefined; job = queue.shift()) await job()
  }
  await Promise.all(Array.from({ length: width }, worker))
}

function run([command = '', ...args]: readonly string[]): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: ['ignore', 'inherit', 'inherit'] })
    const fail = (why: string): void =>
      reject(new KvxError('ERR_KVX_BACKEND_UNAVAILABLE', `${why}: ${[command, ...args].join(' ')}`))
    child.on('error', (error) => fail(`${command} could not be started, ${error.message}`))
    child.on('close', (code, signal) => {
      if (code === 0) resolve()
      else fail(`the compiler ended with ${signal ?? `exit code ${code}`}; what it says is above`)
    })
  })
}
