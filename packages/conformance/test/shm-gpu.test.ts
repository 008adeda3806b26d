// shm with memory of GPUs, which are those of packages/native/test/fake-cuda: what depends on where memory is. With memory of
// the host it runs all suites in shm.test.ts.
import { runConformance, type MemoryPlace } from '@kvx/conformance/run'
import { expect, test } from 'vitest'
import { shmOnGpus } from './engines.mjs'

const cpu: MemoryPlace = { kind: 'cpu' }
const gpu = (device: number): MemoryPlace => ({ kind: 'cuda', device })

test.concurrent.each([
  {
    from: 'one GPU to another',
    memory: { writer: gpu(0), owner: gpu(1) },
    only: ['memory', 'connect', 'plans', 'bounds', 'visibility', 'after'],
  },
  { from: 'a GPU to the host', memory: { writer: gpu(0), owner: cpu }, only: ['memory', 'after'] },
  { from: 'the host to a GPU', memory: { writer: cpu, owner: gpu(0) }, only: ['memory', 'after'] },
])('shm from $from', { timeout: 120_000 }, async ({ memory, only }) => {
  const outcomes = await runConformance(shmOnGpus(memory), { only })
  const skipped = outcomes.filter(({ outcome }) => outcome === 'skipped')
  expect(outcomes.filter(({ outcome }) => outcome === 'failed')).toEqual([])
  expect(skipped.map(({ reason }) => reason)).toEqual(["the engine declares 'after'"])
})
