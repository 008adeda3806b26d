/** The measurement of an engine between two processes: what moves is right, and what it says of it adds up. */
import { runTransferBench, type TransferBenchOptions } from '@kvx/bench'
import { expect, test } from 'vitest'

const options: TransferBenchOptions = {
  backend: 'shm',
  from: import.meta.url,
  memory: ['cpu', 'cpu'],
  runs: [4096, 65_536],
  sizes: [1 << 20, 1 << 22],
  repetitions: 2,
}

test('each size is measured in one piece and in each length of runs, and the bytes are right', async () => {
  const { engine, rows, ok } = await runTransferBench(options)
  expect(engine).toEqual({ backend: 'shm', version: '1' })
  expect(rows.map(({ size, run, right }) => [size, run, right])).toEqual(
    options.sizes.flatMap((size) => [undefined, ...options.runs].map((run) => [size, run, true])),
  )
  for (const { median, least, most, share, callMicroseconds } of rows) {
    expect(least).toBeGreaterThan(0)
    expect(median).toBeGreaterThanOrEqual(least)
    expect(most).toBeGreaterThanOrEqual(median)
    expect(share).toBeGreaterThan(0)
    expect(callMicroseconds).toBeGreaterThan(0)
  }
  expect(ok).toBe(true)
})

test('the lanes of a page may lie together at the owner', async () => {
  const { rows, ok } = await runTransferBench({ ...options, lanesTogether: true })
  expect(rows.map(({ right }) => right)).toEqual(rows.map(() => true))
  expect(ok).toBe(true)
})

test('what the owner cannot open is said with its reason, and nothing is left running', async () => {
  const wrong = { ...options, backendOptions: { copyThreads: 0 } }
  await expect(runTransferBench(wrong)).rejects.toMatchObject({
    code: 'ERR_KVX_INVALID_OPTION',
    message: expect.stringContaining("'copyThreads'") as string,
  })
})

test('a measurement that is aborted ends at once', async () => {
  const signal = AbortSignal.abort()
  await expect(runTransferBench({ ...options, signal })).rejects.toMatchObject({
    code: 'ERR_KVX_ABORTED',
  })
})
