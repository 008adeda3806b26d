import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'

const readme = readFileSync(new URL('../README.md', import.meta.url), 'utf8')
const examples = [...readme.matchAll(/^```js\n([^]*?)^```$/gm)].map(([, code = '']) => code)

/** What it prints, line by line. */
function run(example: string | undefined): string[] {
  const words = ['--input-type=module', '--eval', example ?? '']
  const cwd = new URL('..', import.meta.url)
  return execFileSync(process.execPath, words, { cwd, encoding: 'utf8' }).split('\n')
}

test('the example of one rank runs as it is', () => {
  const [bytes, mismatch] = run(examples[0])
  expect(bytes).toBe('81920 81920')
  expect(mismatch).toMatch(/^kv layer 0 k, unit 2, row 16, byte 0 must be /)
})

test('the example of whole instances runs as it is', () => {
  const layerBytes = 2 * 8 * 256
  expect(run(examples[1])).toEqual([`true ${String(4 * 1000 * 4 * layerBytes)}`, ''])
  expect(examples).toHaveLength(2)
})
