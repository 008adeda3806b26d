/**
 * Tests that a page cites must exist: as a link to the file with names in quotes after it, [core/plan](…) “name of the
 * test”, or in brackets without names, [core/plan, core/pool]. The names of a table of tests (`test.each`) are
 * written as in the source, with their placeholders.
 */
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import ts from 'typescript'
import { root } from '../lib/repository.mjs'

const bracket = /\[([a-z]+\/[\w-]+(?:,\s[a-z]+\/[\w-]+)*)\](?!\()/g
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
    const known = testsOf(file)
    for (const name of names) {
      if (!known.has(name)) problems.push(`${page} cites “${name}”, which is no test of ${file}.`)
    }
  }
  for (const [, list] of text.matchAll(bracket)) {
    for (const [, name, test] of list.matchAll(/([a-z]+)\/([\w-]+)/g)) {
      const file = `packages/${name}/test/${test}.test.ts`
      if (!existsSync(join(root, file)))
        problems.push(`${page} cites ${file}, which does not exist.`)
    }
  }
  return problems
}

const cache = new Map()

/** The names of the tests of a file: the first argument of `test(…)`, `test.each(…)(…)` and the like. */
function testsOf(file) {
  const known = cache.get(file) ?? new Set()
  if (cache.has(file)) return known
  cache.set(file, known)
  const visit = (node) => {
    if (ts.isCallExpression(node) && isTest(node.expression)) {
      const [name] = node.arguments
      if (name !== undefined && ts.isStringLiteralLike(name)) known.add(name.text)
    }
    ts.forEachChild(node, visit)
  }
  const source = readFileSync(join(root, file), 'utf8')
  visit(ts.createSourceFile(file, source, ts.ScriptTarget.Latest, false))
  return known
}

/** `test`, `test.skipIf(…)`, `test.each(…)` and so on. */
function isTest(callee) {
  if (ts.isIdentifier(callee)) return callee.text === 'test' || callee.text === 'it'
  return (
    (ts.isCallExpression(callee) || ts.isPropertyAccessExpression(callee)) &&
    isTest(callee.expression)
  )
}
