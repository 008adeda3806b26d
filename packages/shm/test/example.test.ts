import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'

const root = new URL('../../../', import.meta.url)
const example = new URL('examples/two-managers.mjs', root)

test('the example runs as it is: its pages arrive, others stay as they were, and it ends by itself', () => {
  const { stdout, stderr, status } = spawnSync(process.execPath, [example.pathname], {
    encoding: 'utf8',
  })
  expect({ stderr, status }).toEqual({ stderr: '', status: 0 })
  expect(JSON.parse(stdout)).toEqual({ arrived: true, others: true, firstToken: 42, bytes: 8192 })
})

test('the README shows the example as it is', () => {
  const shown = readFileSync(new URL('README.md', root), 'utf8')
  expect(shown).toContain(`\`\`\`js\n${readFileSync(example, 'utf8')}\`\`\`\n`)
})
