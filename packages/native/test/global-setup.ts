import { buildAddon } from './build.ts'

/**
 * Builds the misbehaving driver (test/faulty/) and the tests of the engine's parts (test/parts/). Before all
 * test files, because they run side by side, and two builds in one folder would disturb each other.
 */
export async function setup(): Promise<void> {
  await Promise.all(
    ['./faulty/', './parts/'].map((folder) => buildAddon(new URL(folder, import.meta.url))),
  )
}
