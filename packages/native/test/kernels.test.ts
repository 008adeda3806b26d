// The kernels' PTX (include/kvx/gpu/kernels/), with NVIDIA's compiler and without a GPU.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'

const check = fileURLToPath(new URL('../../../tools/gpu/ptx.mjs', import.meta.url))
const cannotFetch = 3

test('the PTX is what its source compiles to, and assembles for every GPU without spilling registers', async ({
  skip,
}) => {
  const child = spawn(process.execPath, [check, '--check'], { stdio: ['ignore', 'pipe', 'pipe'] })
  const [[status], stdout, stderr] = await Promise.all([
    once(child, 'close') as Promise<[number]>,
    text(child.stdout),
    text(child.stderr),
  ])
  if (status === cannotFetch) return skip(stderr.trim())
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' })
  expect(stdout).toContain('assembles for sm_70')
}, 400_000)
