// How processes and workers end while the addons are in use. A worker's end is the only time at which Node takes
// an environment down for real, so it is where a thread that outlives it would crash.
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'

const script = fileURLToPath(new URL('./children/stages.mjs', import.meta.url))

/** Fails with what the child printed, so that a hang tells how far it came. */
function ending(
  stage: string,
  how: string,
): Promise<{ code: number; signal: string | null; output: string }> {
  return new Promise((resolve) => {
    execFile(
      process.execPath,
      [script, stage, how],
      { timeout: 60_000 },
      (error, stdout, stderr) => {
        resolve({
          code: error === null ? 0 : Number(error.code ?? -1),
          signal: error?.signal ?? null,
          output: stdout + stderr,
        })
      },
    )
  })
}

const stages = [
  'loaded',
  'allocated',
  'opened',
  'registered',
  'connected',
  'writing',
  'closing',
  'closed',
] as const

for (const stage of stages) {
  test(`a process that ends when it is ${stage} exits with code 0 and no signal`, async () => {
    for (const how of ['return', 'exit']) {
      expect({ how, ...(await ending(stage, how)) }).toEqual({
        how,
        code: 0,
        signal: null,
        output: `reached ${stage}\n`,
      })
    }
  }, 120_000)

  test(`a worker that is terminated when it is ${stage} takes nothing down with it`, async () => {
    expect(await ending(stage, 'worker')).toEqual({
      code: 0,
      signal: null,
      output: `reached ${stage}\n`,
    })
  }, 120_000)
}

test('twenty workers that are terminated in the middle of writes take nothing down with them', async () => {
  expect(await ending('writing', 'workers')).toEqual({
    code: 0,
    signal: null,
    output: 'reached writing\n',
  })
}, 120_000)
