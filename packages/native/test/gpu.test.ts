// GPU memory (include/kvx/gpu/), in C++ and without Node (test/gpu/*.cc), on the fake driver.
import { execFileSync, spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { fakeCuda } from './fake-cuda.ts'

const program = fileURLToPath(new URL('./gpu/build/Release/gpu', import.meta.url))
const sentences = execFileSync(program, ['--list'], { encoding: 'utf8' }).trim().split('\n')

test.each(sentences)('%s', (sentence) => {
  const { status, signal, stderr } = spawnSync(program, [sentence], {
    encoding: 'utf8',
    timeout: 60_000,
    env: { ...process.env, KVX_CUDA_LIBRARY: fakeCuda },
  })
  expect({ status, signal, stderr }).toEqual({ status: 0, signal: null, stderr: '' })
})
