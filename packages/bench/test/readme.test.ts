import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'

test('the example of the README runs as it is', () => {
  const readme = readFileSync(new URL('../README.md', import.meta.url), 'utf8')
  const [, example = ''] = /^```js\n([^]*?)^```$/m.exec(readme) ?? []
  const printed = execFileSync(process.execPath, ['--input-type=module', '--eval', example], {
    cwd: new URL('..', import.meta.url),
    encoding: 'utf8',
  })
  const [bytes, mismatch] = printed.split('\n')
  expect(bytes).toBe('81920 81920')
  expect(mismatch).toMatch(/^kv layer 0 k, unit 2, row 16, byte 0 must be /)
})
