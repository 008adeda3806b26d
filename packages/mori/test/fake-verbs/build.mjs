// Builds the fake libibverbs and prints where it is: node packages/mori/test/fake-verbs/build.mjs
import { execFileSync } from 'node:child_process'
import { mkdirSync, renameSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { argv, pid } from 'node:process'
import { fileURLToPath } from 'node:url'

const folder = dirname(fileURLToPath(import.meta.url))
const source = join(folder, 'fake_verbs.c')
const library = join(folder, 'build/libibverbs.so')

/** @returns {string} path of the library, built unless it is newer than its source */
export function buildFakeVerbs() {
  const built = statSync(library, { throwIfNoEntry: false })
  if (built && built.mtimeMs > statSync(source).mtimeMs) return library
  mkdirSync(dirname(library), { recursive: true })
  // Several test files may come here at once: each builds its own and moves it into place.
  const mine = `${library}.${String(pid)}`
  const flags = ['-std=gnu11', '-O2', '-g', '-Wall', '-Wextra', '-fPIC', '-shared', '-pthread']
  try {
    execFileSync(
      process.env.CC ?? 'cc',
      [...flags, '-Wl,-soname,libibverbs.so', '-o', mine, source],
      {
        stdio: ['ignore', 'inherit', 'pipe'],
        encoding: 'utf8',
      },
    )
  } catch (error) {
    const text = String(error.stderr ?? error.message)
    const help = text.includes('infiniband/verbs.h')
      ? 'Its header is missing: apt-get install libibverbs-dev\n'
      : ''
    throw new Error(`The fake libibverbs could not be built. ${help}${text}`, { cause: error })
  }
  renameSync(mine, library)
  return library
}

if (argv[1] === fileURLToPath(import.meta.url)) console.log(buildFakeVerbs())
