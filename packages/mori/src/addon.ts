import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { loadAddon, type EngineBinding } from '@kvx/native'
import { invalidOption, unavailable } from '@kvx/vendor'

export interface Dependency {
  readonly soname: string
  /** Debian package; empty for parts of ROCm, which have stand-ins. */
  readonly package: string
  /** Why it cannot be loaded; empty: it can. */
  readonly problem: string
}

export interface Binding extends EngineBinding {
  /** Loads libraries: ask in a process of its own. */
  checkDependencies(): Dependency[]
  /** Why ROCm's management library cannot be used, or an empty text. May end the process. */
  checkRocmSmi(): string
  /** Changes the C environment, which MORI reads. */
  setEnvironment(name: string, value: string | undefined): void
}

const packageFolder = new URL('..', import.meta.url)

/** @throws KvxError `ERR_KVX_BACKEND_UNAVAILABLE` on other platforms, or when it is not built */
export function binding(): Binding {
  if (process.platform !== 'linux' || process.arch !== 'x64') {
    throw unavailable(
      `MORI exists for Linux on x86-64; this is ${process.platform} on ${process.arch}.`,
    )
  }
  return loadAddon<Binding>(packageFolder, '@kvx/mori')
}

/** The folder with the stand-ins for ROCm's libraries. They are built with the addon and lie beside it. */
export function standIns(): string {
  const root = fileURLToPath(packageFolder)
  const folders = [join(root, 'build/Release'), join(root, `prebuilds/linux-${process.arch}`)]
  const folder = folders.find((candidate) => existsSync(join(candidate, 'libamdhip64.so.7')))
  if (folder === undefined)
    throw unavailable(`The stand-ins of @kvx/mori are missing in ${folders.join(' and ')}.`)
  return folder
}

/**
 * The libibverbs that `KVX_MORI_VERBS=fake` asks for, for development: real MORI, but processes of one machine
 * copy into each other's memory. It is no part of the package: it is built from the sources of kvx.
 */
export function fakeVerbs(env: NodeJS.ProcessEnv = process.env): string | undefined {
  const choice = env.KVX_MORI_VERBS ?? ''
  if (choice === '') return undefined
  if (choice !== 'fake') {
    throw invalidOption(`KVX_MORI_VERBS can only be 'fake', not '${choice}'.`)
  }
  const path =
    env.KVX_MORI_FAKE_VERBS ??
    join(dirname(fileURLToPath(import.meta.url)), '../test/fake-verbs/build/libibverbs.so')
  if (!existsSync(path)) {
    throw unavailable(
      `KVX_MORI_VERBS=fake needs ${path}, which is not there. In the sources of kvx: ` +
        'node packages/mori/test/fake-verbs/build.mjs',
    )
  }
  return path
}
