/** The clang-format of this repository: pinned, since versions disagree about layout. */
import { existsSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { cacheFolder } from './repository.mjs'
import { run } from './run.mjs'

const version = '22.1.8'

const folder = join(cacheFolder, `clang-format-${version}`)
const program = join(folder, 'clang_format', 'data', 'bin', 'clang-format')

export const hasClangFormat = () => existsSync(program)

/** Resolves to the path of the program, after having fetched it from PyPI when it is not there yet. */
export async function clangFormat() {
  if (hasClangFormat()) return program
  mkdirSync(folder, { recursive: true })
  // prettier-ignore
  const args = ['-m', 'pip', 'install', '--quiet', '--no-deps', '--only-binary=:all:', '--target', folder, `clang-format==${version}`]
  // Some pips refuse even --target where the system's Python is managed by its distribution; older
  // ones do not know the switch that permits it, but ignore the variable.
  const env = {
    ...process.env,
    PIP_BREAK_SYSTEM_PACKAGES: '1',
    PIP_USER: '0',
    PIP_DISABLE_PIP_VERSION_CHECK: '1',
    PIP_NO_INPUT: '1',
    PIP_ROOT_USER_ACTION: 'ignore',
  }
  const { ok, output, reason } = await run('clang-format', 'python3', args, { env })
  if (ok && hasClangFormat()) return program
  throw new Error(
    `clang-format ${version} could not be installed (${reason ?? 'program missing'})\n${output}`,
  )
}
