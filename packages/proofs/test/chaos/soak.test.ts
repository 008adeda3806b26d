/** Do workers over every engine survive load, faults and aborts together, for some seconds of the hours that `npm run soak` takes? */
import { expect, test } from 'vitest'
import { runSoak } from '../../src/soak/run.ts'

/** Shorter than those of a long run, which leaves a busy machine more time. */
const deadlines = {
  ...{ hello: 5_000, probe: 500, reserve: 4_000, pairing: 4_000, progress: 30_000 },
  ...{ transfer: 4_000, linger: 4_000, peerSilent: 4_000, ping: 500, drain: 1_000, recycle: 2_000 },
}

test('over shm, mooncake and mori, kills, freezes, cuts and aborts lose no page, no request and no byte', async ({
  signal,
}) => {
  const { failures, engines, samples } = await runSoak({
    engines: ['shm', 'mooncake', 'mori'],
    ...{ ms: 4_000, seed: 42_926, rate: 8, faultEveryMs: 500, sampleEveryMs: 1_000 },
    ...{ deadlines, signal, progress: (line) => process.stderr.write(`${line}\n`) },
  })
  expect(failures).toEqual([])
  for (const counts of Object.values(engines)) {
    expect(counts.ok).toBeGreaterThan(0)
    expect(counts.faults.kill).toBeGreaterThan(0)
  }
  expect(new Set(samples.map(({ worker }) => worker)).size).toBe(6)
})
