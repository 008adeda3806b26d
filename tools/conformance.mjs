/**
 * `npm run test:versions [-- [--write] [NAME…]]`: all suites of @kvx/conformance on every engine of kvx and every supported version of
 * the vendors' libraries (packages/conformance/test/engines.mjs), or on those whose names begin with one of the words. Fetches the
 * libraries, once; takes one to three minutes for each. `--write` keeps what passed in docs/engines/conformance.json, from which the tables
 * in docs/engines/conformance.md are made. Needs built packages.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { runConformance } from '../packages/conformance/dist/run.js'
import { engines } from '../packages/conformance/test/engines.mjs'
import { elapsed } from './lib/run.mjs'
import { root } from './lib/repository.mjs'

const file = join(root, 'docs/engines/conformance.json')
const args = process.argv.slice(2)
const write = args.includes('--write')
const words = args.filter((arg) => arg !== '--write')
const isMeant = ({ name }) => words.length === 0 || words.some((word) => name.startsWith(word))
const chosen = engines.filter(isMeant)
if (chosen.length === 0) {
  const names = engines.map(({ name }) => name).join('; ')
  console.error(`No engine's name begins with ${words.join(' or ')}. There are: ${names}`)
  process.exit(2)
}

/** Counts by suite, and the reason of each skip. @returns undefined when a check failed, which it has said */
async function examine({ skip, fixture }) {
  const outcomes = await runConformance(await fixture(), { skip })
  const failed = outcomes.filter(({ outcome }) => outcome === 'failed')
  for (const { suite, check, reason } of failed)
    console.log(`FAILED  ${suite}: ${check}\n${reason}`)
  const suites = {}
  const skipped = {}
  for (const { suite, check, outcome, reason } of outcomes) {
    const counts = (suites[suite] ??= { passed: 0, skipped: 0 })
    if (outcome === 'passed') counts.passed++
    if (outcome !== 'skipped') continue
    counts.skipped++
    skipped[`${suite}: ${check}`] = reason
  }
  const passed = outcomes.filter(({ outcome }) => outcome === 'passed').length
  console.log(`${passed} passed, ${failed.length} failed, ${Object.keys(skipped).length} skipped`)
  return failed.length === 0 ? { suites, skipped } : undefined
}

/** A library that must not be used: why it was refused. */
async function refuse({ refused, fixture }) {
  const { options } = await fixture()
  const entry = pathToFileURL(join(root, 'packages/mooncake/dist/index.js'))
  const { default: backend } = await import(entry.href)
  const { available, tried } = await backend.probe(options)
  const reason = tried.map((attempt) => attempt.reason).find((text) => refused.test(text))
  console.log(reason === undefined ? 'FAILED  it was not refused' : `refused: ${reason}`)
  if (available || reason === undefined) return undefined
  return { refused: reason.replace(options.libraryPath, 'the library') }
}

for (const engine of chosen) {
  const started = Date.now()
  console.log(`\n${engine.name}`)
  const result = await (engine.refused === undefined ? examine(engine) : refuse(engine))
  console.log(`${elapsed(started)}`)
  if (result === undefined) process.exitCode = 1
  else if (write) {
    const date = new Date().toISOString().slice(0, 10)
    const known = { ...JSON.parse(readFileSync(file, 'utf8')), [engine.name]: { date, ...result } }
    const sorted = Object.fromEntries(
      engines.flatMap(({ name }) => (name in known ? [[name, known[name]]] : [])),
    )
    writeFileSync(file, `${JSON.stringify(sorted, undefined, 2)}\n`)
  }
}
