/** The flags of `kvx`, and the environment variables that the packages read, for docs/configuration.md. */
import { readFileSync } from 'node:fs'
import { extname, join } from 'node:path'
import { router } from '../../packages/cli/dist/commands/router.js'
import { serve } from '../../packages/cli/dist/commands/serve.js'
import { up } from '../../packages/cli/dist/commands/up.js'
import { filesBelow, published, root } from '../lib/repository.mjs'
import { code, table } from './table.mjs'

const flags =
  ({ args }) =>
  () =>
    table(
      ['flag', 'what it does'],
      Object.entries(args).map(([name, { valueHint, description }]) => [
        code(valueHint === undefined ? `--${name}` : `--${name} ${valueHint}`),
        `${description}.`,
      ]),
    )

export const flagTables = {
  'flags-serve': flags(serve),
  'flags-router': flags(router),
  'flags-up': flags(up),
}

/** Every variable that a published package reads is described on one of `pages`. */
export function environmentProblems(pages) {
  const described = pages.map((page) => readFileSync(join(root, page), 'utf8')).join('\n')
  const inTypeScript = /\b(?:KVX|SGLANG|XDG)_[A-Z0-9_]*[A-Z0-9]\b|\benv\.([A-Z][A-Z0-9_]+)/g
  const inNative = /getenv\("([A-Z][A-Z0-9_]+)"\)/g
  const problems = new Set()
  for (const file of filesBelow(published.flatMap((path) => [`${path}/src`, `${path}/native`]))) {
    const text = readFileSync(join(root, file), 'utf8')
    const pattern = extname(file) === '.ts' ? inTypeScript : inNative
    for (const [whole, name = whole] of text.matchAll(pattern)) {
      if (!new RegExp(`\\b${name}\\b`).test(described))
        problems.add(`${file} reads ${name}, which ${pages.join(' or ')} does not describe.`)
    }
  }
  return [...problems]
}
