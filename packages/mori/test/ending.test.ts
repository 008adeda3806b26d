import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import { useMori } from './support/mori.ts'

useMori()

const script = fileURLToPath(new URL('support/ending.mjs', import.meta.url))

test.each([
  ['by itself', 'return'],
  ['by process.exit', 'exit'],
  ['after its worker with the engine was terminated', 'worker'],
])(
  'a process that ends %s in the middle of writes ends cleanly',
  { timeout: 60_000 },
  async (_, way) => {
    // Rejects on any other exit code, on a signal, and at the time limit.
    const { stdout } = await promisify(execFile)(process.execPath, [script, way], {
      timeout: 50_000,
    })
    expect(stdout).toBe('') // MORI's log stays out of the standard output
  },
)
