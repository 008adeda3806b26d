import { buildAddon } from '../../native/test/build.ts'

/** Builds the CUDA driver of the tests and what forks (test/fork/), before all test files: they run side by side. */
export async function setup(): Promise<void> {
  const driver = new URL('../../native/test/fake-cuda/', import.meta.url)
  await Promise.all([buildAddon(new URL('./fork/', import.meta.url)), buildAddon(driver)])
}
