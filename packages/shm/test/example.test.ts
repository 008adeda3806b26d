import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'

const root = new URL('../../../', import.meta.url)
const example = new URL('examples/two-managers.mjs', root)

/** What an example that ends by itself has printed, a JSON object on each line. */
function printed(file: URL) {
  const { stdout, stderr, status } = spawnSync(process.execPath, [file.pathname], {
    encoding: 'utf8',
    timeout: 50_000,
  })
  expect({ stderr, status }).toEqual({ stderr: '', status: 0 })
  const lines = stdout.trim().split('\n')
  return lines.map((line) => JSON.parse(line))
}

test('the example runs as it is: its pages arrive, others stay as they were, and it ends by itself', () => {
  expect(printed(example)).toEqual([{ arrived: true, others: true, firstToken: 42, bytes: 8192 }])
})

test('the README shows the example as it is', () => {
  const shown = readFileSync(new URL('README.md', root), 'utf8')
  expect(shown).toContain(`\`\`\`js\n${readFileSync(example, 'utf8')}\`\`\`\n`)
})

test('four prefill ranks fill two decode ranks in the example, a process each, and every byte is right', () => {
  const found = printed(new URL('examples/ranks.mjs', root))
  const decode = { role: 'decode', firstToken: 42, bytes: 393216, wrong: 0 }
  expect(found).toEqual([
    ...[0, 1, 2, 3].map((tp) => ({ role: 'prefill', tp })),
    ...[0, 1].map((tp) => ({ ...decode, tp })),
  ])
})

test('in the example of a block manager only the blocks cross that decode does not have, and all are given back', () => {
  const found = printed(new URL('examples/own-block-manager.mjs', root))
  const right = { prompt: 50, right: true, unused: [8, 8] }
  expect(found).toEqual([
    { ...right, moved: 4 * 4096, cachedByPrefill: 0 },
    { ...right, moved: 4096, cachedByPrefill: 48 },
    { ...right, moved: 4096, cachedByPrefill: 48 },
  ])
})

test('the schedulers of the example bring every request to its end by polling, the one that its client left too', () => {
  const found = printed(new URL('examples/polling-scheduler.mjs', root))
  const byRoom = [...found].sort((a, b) => a.room - b.room)
  expect(byRoom).toEqual(
    [0, 1, 2, 3, 4, 5].map((room) =>
      room === 3 ? { room, error: 'ERR_KVX_ABORTED' } : { room, right: true },
    ),
  )
})
