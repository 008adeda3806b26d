/**
 * `npm test [-- ARGUMENTS]`: set-up, the static checks, all tests but those with real clients, which
 * fetch a few hundred megabytes of Python packages, and those over RDMA, which take minutes in an emulated
 * machine: `--with-clients` and `--with-rdma` run them too; `--with-packages` installs the packages as strangers
 * do (a selection of test-packages.mjs). Every step runs, also after one has failed. The
 * last line counts: each static check is one test. With other arguments, which go to vitest, no static checks run.
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
  ['dependencies', tool('knip'), ['--production']],
  ['import circles', tool('depcruise'), ['--config', '.dependency-cruiser.mjs', 'packages']],
  ['formatting', node, ['tools/format.mjs', '--check']],
  ['types', tool('tsc'), ['-b']],
  ['published packages', node, ['tools/check-published.mjs']],
]
/** After the types, which build what the pages are made from. They leave a processor free, for `installed`. */
const moreChecks = [
  ['generated docs', node, ['tools/docs/generate.mjs', '--check']],
  ['documentation site', node, ['tools/site/build.mjs']],
  ['Dockerfiles', node, ['tools/docker/check.mjs']],
  ['workflows', node, ['tools/check-workflows.mjs']],
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

/** Its last line counts. Beside static checks, but not beside tests, which it would slow down. */
async function installed() {
  const { output } = await run('packages', node, ['tools/test-packages.mjs', '--quick'])
  console.log(output.trimEnd())
  const counted = /(\d+) passed, (\d+) failed\s*$/.exec(output)
  if (counted === null) return { passed: 0, failed: 1, skipped: 0 }
  return { passed: Number(counted[1]), failed: Number(counted[2]), skipped: 0 }
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

/** Projects that are not run unless they are asked for, and how. */
const left = { clients: '--with-clients', rdma: '--with-rdma' }

const given = process.argv.slice(2)
const withPackages = given.includes('--with-packages')
const args = given.filter((arg) => arg !== '--with-packages' && !Object.values(left).includes(arg))
const without = Object.entries(left).flatMap(([project, flag]) =>
  given.includes(flag) ? [] : ['--project', `!${project}`],
)
const unready = await setUp({ alsoNeeds: hasClangFormat() ? [] : ['pip'], keepGoing: true })
const results = unready.map((name) => {
  console.log(`FAILED  set-up: ${name}`)
  return { passed: 0, failed: 1, skipped: 0 }
})
if (existsSync(tool('vitest'))) {
  if (args.length === 0) {
    for (const one of checks) results.push(await check(one))
    const packages = withPackages ? [installed()] : []
    for (const one of moreChecks) results.push(await check(one))
    results.push(...(await Promise.all(packages)))
  } else if (withPackages) {
    results.push(await installed())
  }
  results.push(await tests(args.length > 0 ? args : without))
}

const sum = (key) => results.reduce((total, result) => total + result[key], 0)
const [passed, failed, skipped] = ['passed', 'failed', 'skipped'].map(sum)
if (failed > 0) process.exitCode = 1
console.log(`${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`)
