/**
 * `npm run site`: the site of docs/ into build/site/, with the API reference made from the docstrings. Fails on what TypeDoc
 * warns of, on dead links and on anchors that do not exist. Needs no network.
 */
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { root } from '../lib/repository.mjs'
import { run } from '../lib/run.mjs'
import { linkProblems } from './check.mjs'

const tool = (name) => join(root, 'node_modules', '.bin', name)
const steps = [
  [
    'API reference',
    tool('typedoc'),
    ['--options', join(import.meta.dirname, 'typedoc.config.mjs')],
  ],
  ['site', tool('vitepress'), ['build', 'docs']],
]

for (const folder of ['api', 'site'])
  rmSync(join(root, 'build', folder), { recursive: true, force: true })
for (const [title, command, args] of steps) {
  const { ok, output, reason } = await run(title, command, args)
  if (ok) continue
  console.log(`${output.trimEnd()}\n${title}: ${reason}`)
  process.exit(1)
}
const { pages, problems } = linkProblems(join(root, 'build', 'site'))
for (const problem of problems) console.log(problem)
if (problems.length > 0) process.exitCode = 1
else console.log(`build/site: ${pages} pages, all links lead somewhere`)
