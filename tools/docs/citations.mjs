/**
 * Tests that a page of docs/ cites, as [`core/test/plan.test.ts`](…) “name of the test”, must exist. In a
 * table of tests (`test.each`) the name is written as in the source, with its placeholders.
 */
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import ts from 'typescript'
import { root } from '../lib/repository.mjs'

const citation = /\]\(([^)\s]+\.test\.ts)\)((?:[\s,]*(?:and )?“[^”]+”)*)/g

export function citationProblems(page, text) {
  const problems = []
  for (const [, link, quoted] of text.matchAll(citation)) {
    const file = join(dirname(page), link)
    if (!existsSync(join(root, file))) {
      problems.push(`${page} cites ${file}, which does not exist.`)
      continue
    }
    const names = [...quoted.matchAll(/“([^”]+)”/g)].map(([, name]) => name.replace(/\s+/g, ' '))
    const known = stringsOf(file)
    for (const name of names) {
      if (!known.has(name)) problems.push(`${page} cites “${name}”, which ${file} does not hold.`)
    }
  }
  return problems
}

const cache = new Map()

/** Every string of a source file; those of `test('…')` and of its tables are among them. */
function stringsOf(file) {
  const known = cache.get(file) ?? new Set()
  if (cache.has(file)) return known
  cache.set(file, known)
  const visit = (node) => {
    if (ts.isStringLiteralLike(node)) known.add(node.text)
    ts.forEachChild(node, visit)
  }
  const source = readFileSync(join(root, file), 'utf8')
  visit(ts.createSourceFile(file, source, ts.ScriptTarget.Latest, false))
  return known
}
