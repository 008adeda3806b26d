import { existsSync, readFileSync, readdirSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join, relative, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { KvxError } from '@kvx/contract'
import { elfProblem } from './elf.ts'
import { fingerprintMark, fingerprintOf, recipeOf } from './sources.ts'

const require = createRequire(import.meta.url)
const nodeGypBuild = require('node-gyp-build') as { path(folder: string): string }

/**
 * Loads the addon of a package: what was compiled in `build/Release/`, or else the file of `prebuilds/` for this
 * platform.
 *
 * @throws KvxError `ERR_KVX_BACKEND_UNAVAILABLE` when there is none, when it is broken, for another platform or from
 * other sources than the package's; says why, and how to compile it
 */
// Only its author knows what an addon exports; a cast at every caller would say no more.
// eslint-disable-next-line @typescript-eslint/no-unnecessary-type-parameters
export function loadAddon<T>(packageFolder: URL | string, packageName: string): T {
  const folder =
    packageFolder instanceof URL ? fileURLToPath(packageFolder) : resolve(packageFolder)
  const refuse = (what: string, cause?: unknown): never => {
    throw new KvxError(
      'ERR_KVX_BACKEND_UNAVAILABLE',
      `The native addon of ${packageName} cannot be loaded: ${what}. ` +
        `Compile it on this machine, which takes a C++20 compiler, with: npx @kvx/native build ${packageName}`,
      { cause, phase: 'open' },
    )
  }
  const file = find(folder) ?? refuse(nothingFits(folder))
  let content: Buffer
  try {
    content = readFileSync(file)
  } catch (cause) {
    return refuse(messageOf(cause), cause)
  }
  const problem = elfProblem(content, process.arch) ?? staleness(content, folder)
  if (problem !== undefined) refuse(`${file} is not usable, ${problem}`)
  try {
    return require(file) as T
  } catch (cause) {
    return refuse(messageOf(cause).replace(/^Error: /, ''), cause)
  }
}

/** Undefined when nothing fits this platform. */
function find(folder: string): string | undefined {
  try {
    return nodeGypBuild.path(folder)
  } catch {
    return undefined
  }
}

function nothingFits(folder: string): string {
  const prebuilds = join(folder, 'prebuilds')
  const present = existsSync(prebuilds)
    ? readdirSync(prebuilds, { recursive: true, encoding: 'utf8' }).filter((file) =>
        file.endsWith('.node'),
      )
    : []
  const libc = existsSync('/etc/alpine-release') ? 'musl' : 'glibc'
  const here = `${process.platform}-${process.arch} (${libc})`
  return present.length === 0
    ? `${folder} has no compiled file`
    : `${prebuilds} has none for ${here}, only ${present.sort().join(', ')}`
}

/** Why an addon was compiled from other sources than those in `folder`; undefined when it was not, or nobody can tell. */
function staleness(addon: Buffer, folder: string): string | undefined {
  if (recipeOf(folder) === undefined) return undefined
  const at = addon.indexOf(fingerprintMark)
  const start = at + fingerprintMark.length
  const compiledFrom = at < 0 ? undefined : addon.toString('latin1', start, start + 64)
  if (compiledFrom === fingerprintOf(folder)) return undefined
  return `it was compiled from other sources than those in ${relative(process.cwd(), join(folder, 'native'))}`
}

function messageOf(cause: unknown): string {
  return cause instanceof Error ? (cause.message.split('\n')[0] ?? '') : String(cause)
}
