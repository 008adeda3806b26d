import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'

test('the example that works out by hand which bytes go where finds those of the plan', () => {
  const example = fileURLToPath(new URL('../../../examples/which-bytes.mjs', import.meta.url))
  const { stdout, stderr, status } = spawnSync(process.execPath, [example], { encoding: 'utf8' })
  expect({ stderr, status }).toEqual({ stderr: '', status: 0 })
  // 4 tokens of 2 heads of 4 bytes; a run is one head of one token, as the orders differ.
  expect(JSON.parse(stdout)).toEqual({
    ...{ same: true, bytes: 32, copies: 8 },
    moved: { units: 4, bytes: 32 },
  })
})
