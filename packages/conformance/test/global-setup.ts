import { buildAddon } from '../../native/test/build.ts'

/** Builds the CUDA driver without a GPU, on which the suites run with memory of GPUs. */
export async function setup(): Promise<void> {
  await buildAddon(new URL('../../native/test/fake-cuda/', import.meta.url))
}
