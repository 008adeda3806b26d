// The parts of the engine, each alone, in C++ and without Node (test/parts/*.cc).
import { execFileSync, spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'

const parts = new URL('./parts/', import.meta.url)
const program = fileURLToPath(new URL('build/Release/parts', parts))
const sentences = execFileSync(program, ['--list'], { encoding: 'utf8' }).trim().split('\n')

test.each(sentences)('%s', (sentence) => {
  const { status, signal, stderr } = spawnSync(program, [sentence], {
    encoding: 'utf8',
    timeout: 60_000,
  })
  expect({ status, signal, stderr }).toEqual({ status: 0, signal: null, stderr: '' })
})
