import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'

/**
 * Builds the misbehaving driver (test/faulty/faulty.cc) when it is older than its sources. Before all test
 * files, because they run side by side, and two builds in one folder would disturb each other.
 */
export function setup(): void {
  const build = new URL('../../../tools/native/build.mjs', import.meta.url)
  const folder = new URL('./faulty/', import.meta.url)
  const { status, stderr, stdout } = spawnSync(
    process.execPath,
    [fileURLToPath(build), fileURLToPath(folder)],
    { encoding: 'utf8' },
  )
  if (status !== 0) throw new Error(`The test addon could not be built.\n${stdout}${stderr}`)
}
