import { adoptGpu, type SharedGpuMemory } from '@kvx/native'
import { expect, test } from 'vitest'

// Read when CUDA is first needed: before the first adoptGpu of this process.
process.env.KVX_CUDA_LIBRARY = '/nowhere/libcuda.so.1'

const shared: SharedGpuMemory = { device: 0, handle: new Uint8Array(64), offset: 0, bytes: 4096 }

test('where there is no CUDA driver, memory of a GPU is not adopted, and the reason is said', async () => {
  await expect(adoptGpu(shared)).rejects.toMatchObject({
    code: 'ERR_KVX_MEMORY',
    phase: 'open',
    message: expect.stringContaining('/nowhere/libcuda.so.1') as string,
  })
})

test.each([
  { handle: new Uint8Array(63) },
  { handle: 'handle' as unknown as Uint8Array },
  { device: -1 },
  { device: 0.5 },
  { offset: -1 },
  { offset: NaN },
  { bytes: 0 },
  { bytes: 2 ** 53 },
])('$handle$device$offset$bytes is no memory of a GPU', async (wrong) => {
  await expect(adoptGpu({ ...shared, ...wrong })).rejects.toMatchObject({
    code: 'ERR_KVX_INVALID_ARGUMENT',
    message: expect.stringContaining(Object.keys(wrong)[0] ?? '') as string,
  })
})
