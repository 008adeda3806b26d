import { buildAddon } from './build.ts'

/**
 * Builds the misbehaving driver (test/faulty/), the tests of the engine's parts (test/parts/) and of GPU memory (test/gpu/), and the
 * CUDA driver that they use (test/fake-cuda/). Before all
 * test files, because they run side by side, and two builds in one folder would disturb each other.
 */
export async function setup(): Promise<void> {
  await Promise.all(
    ['./faulty/', './parts/', './gpu/', './fake-cuda/'].map((folder) =>
      buildAddon(new URL(folder, import.meta.url)),
    ),
  )
}
