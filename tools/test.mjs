/**
 * `npm test [-- ARGUMENTS]`: set-up, the static checks, all tests. Every step runs, also after one
 * has failed. The last line counts: each static check is one test. With arguments, which go to
 * vitest, only tests run.
 */
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { hasClangFormat } from './lib/clang-format.mjs'
import { root } from './lib/repository.mjs'
import { elapsed, run } from './lib/run.mjs'
import { setUp } from './setup.mjs'

const tool = (name) => join(root, 'node_modules', '.bin', name)
const node = process.execPath

const checks = [
  ['package manifests', node, ['tools/check-packages.mjs']],
  ['import circles', tool('depcruise'), ['--config', '.dependency-cruiser.mjs', 'packages']],
  ['formatting', node, ['tools/format.mjs', '--check']],
  ['types', tool('tsc'), ['-b']],
  // After the types, which build what the pages are made from.
  ['generated docs', node, ['tools/docs/generate.mjs', '--check']],
  ['lint', tool('eslint'), ['.', '--max-warnings', '0']],
]

async function check([name, command, args]) {
  const started = Date.now()
  const { ok, output, reason } = await run(name, command, args)
  if (!ok) console.log(output.trimEnd())
  console.log(
    `${ok ? 'ok    ' : 'FAILED'}  ${name}  (${elapsed(started)}${ok ? '' : `, ${reason}`})`,
  )
  return { passed: ok ? 1 : 0, failed: ok ? 0 : 1, skipped: 0 }
}

/** Counts come from the reporter's file: if vitest dies before it is written, that is a failure. */
async function tests(args) {
  const folder = mkdtempSync(join(tmpdir(), 'kvx-test-'))
  const file = join(folder, 'counts.json')
  const reporters = ['--reporter=default', '--reporter=./tools/vitest/counts.mjs']
  const env = { ...process.env, KVX_TEST_COUNTS: file }
  try {
    const vitest = [tool('vitest'), ['run', ...reporters, ...args]]
    const { ok, reason } = await run('tests', ...vitest, { env, stream: true })
    let counts = { passed: 0, failed: 0, skipped: 0 }
    try {
      counts = JSON.parse(readFileSync(file, 'utf8'))
    } catch {
      console.log('vitest ended without counting its tests')
    }
    if (!ok) console.log(`FAILED  tests  (${reason})`)
    if (ok && counts.passed > 0) return counts
    return { ...counts, failed: Math.max(1, counts.failed) }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

const args = process.argv.slice(2)
const unready = await setUp({ alsoNeeds: hasClangFormat() ? [] : ['pip'], keepGoing: true })
const results = unready.map((name) => {
  console.log(`FAILED  set-up: ${name}`)
  return { passed: 0, failed: 1, skipped: 0 }
})
if (existsSync(tool('vitest'))) {
  if (args.length === 0) for (const one of checks) results.push(await check(one))
  results.push(await tests(args))
}

const sum = (key) => results.reduce((total, result) => total + result[key], 0)
const [passed, failed, skipped] = ['passed', 'failed', 'skipped'].map(sum)
if (failed > 0) process.exitCode = 1
console.log(`${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`)
