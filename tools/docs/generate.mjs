/**
 * `node tools/docs/generate.mjs --check | --write`: the parts of docs/ that are made from source code,
 * between `<!-- generated: NAME -->` and `<!-- end: NAME -->`, and the pictures in docs/layouts/. Also checks what
 * the pages say of the code: every error code is raised and none is named outside of the table, every variable that
 * is read is described, every cited test and every linked file exists. Needs built packages.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { format, resolveConfig } from 'prettier'
import { filesBelow, root } from '../lib/repository.mjs'
import { citationProblems } from './citations.mjs'
import { environmentProblems, flagTables } from './command.mjs'
import { conformanceTables } from './conformance.mjs'
import { errorCodeProblems, errorTables } from './errors.mjs'
import { figures, layoutTables } from './layouts.mjs'
import { linkProblems } from './links.mjs'
import { settingTables } from './settings.mjs'

const mode = process.argv[2]
if (mode !== '--check' && mode !== '--write') {
  console.error('usage: node tools/docs/generate.mjs --check | --write')
  process.exit(2)
}

const tables = {
  ...{ ...errorTables, ...settingTables, ...flagTables, ...layoutTables },
  ...conformanceTables,
}
const problems = []

for (const [file, draw] of Object.entries(figures)) {
  const path = join(root, file)
  const fresh = draw()
  if (existsSync(path) && readFileSync(path, 'utf8') === fresh) continue
  if (mode === '--write') writeFileSync(path, fresh)
  else problems.push(`${file} is not what the code says: \`npm run docs\` repairs it.`)
}

for (const file of filesBelow(['docs', 'README.md', 'CONTRIBUTING.md', 'SECURITY.md'])) {
  if (!file.endsWith('.md')) continue
  const text = readFileSync(join(root, file), 'utf8')
  if (text.includes('<!-- generated: ')) await renew(file, text)
  problems.push(...citationProblems(file, text), ...linkProblems(file, text))
}
problems.push(...errorCodeProblems())
problems.push(...environmentProblems(['docs/configuration.md', ...filesBelow(['docs/engines'])]))

async function renew(file, text) {
  const marks = /(<!-- generated: (\S+) -->\n)[^]*?(\n<!-- end: \2 -->)/g
  const filled = text.replace(marks, (_all, begin, name, end) => {
    const table = tables[name]
    if (table === undefined) problems.push(`${file}: nothing generates '${name}'.`)
    return `${begin}\n${table?.() ?? ''}\n${end}`
  })
  const fresh = await format(filled, {
    ...(await resolveConfig(join(root, file))),
    parser: 'markdown',
  })
  if (fresh === text) return
  if (mode === '--write') writeFileSync(join(root, file), fresh)
  else problems.push(`${file} is not what the code says: \`npm run docs\` repairs it.`)
}

for (const problem of problems) console.log(problem)
if (problems.length > 0) process.exitCode = 1
