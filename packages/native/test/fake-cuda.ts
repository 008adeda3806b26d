import { fileURLToPath } from 'node:url'

/** A CUDA driver without a GPU, for KVX_CUDA_LIBRARY. What it does is in fake-cuda/fake.h. */
export const fakeCuda = fileURLToPath(
  new URL('./fake-cuda/build/Release/fakecuda.so', import.meta.url),
)
