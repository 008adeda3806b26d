/** docs/errors.md, and whether the set of error codes is closed. */
import { readFileSync } from 'node:fs'
import { extname, join } from 'node:path'
import ts from 'typescript'
import { errorTable, KvxError, phaseTable } from '../../packages/contract/dist/errors.js'
import { statusOf } from '../../packages/server/dist/http/errors.js'
import { filesBelow, published, root } from '../lib/repository.mjs'
import { code, codes, table } from './table.mjs'

export const errorTables = {
  errors: () =>
    table(
      ['code', 'what it means', 'what to do', 'retry', 'phases', 'HTTP'],
      Object.entries(errorTable).map(([name, { summary, advice, retryable, phases }]) => [
        code(name),
        summary,
        advice,
        retryable ? 'yes' : 'no',
        codes(phases),
        String(statusOf(new KvxError(name, ''))),
      ]),
    ),
  phases: () =>
    table(
      ['phase', 'meaning'],
      Object.entries(phaseTable).map(([name, summary]) => [code(name), summary]),
    ),
}

const codePattern = /\bERR_KVX_[A-Z]+(?:_[A-Z]+)*\b/g

/** Every code of the table is raised somewhere, none is named that is not in it, and no phase is left out. */
export function errorCodeProblems() {
  const problems = []
  const raised = new Set()
  const folders = published.flatMap((path) =>
    ['src', 'native', 'include'].map((n) => `${path}/${n}`),
  )
  for (const file of filesBelow(folders)) {
    const text = readFileSync(join(root, file), 'utf8')
    for (const [name] of text.matchAll(codePattern)) {
      if (!Object.hasOwn(errorTable, name))
        problems.push(`${file} names ${name}, which is not in errorTable.`)
    }
    if (extname(file) === '.ts') {
      for (const { name, phases } of raisedIn(file, text)) {
        raised.add(name)
        for (const phase of phases) {
          if (errorTable[name]?.phases.includes(phase) === false)
            problems.push(`${file} raises ${name} in phase '${phase}': add it in errorTable.`)
        }
      }
    } else {
      for (const [, name] of text.matchAll(/"(ERR_KVX_[A-Z_]+)/g)) raised.add(name)
    }
  }
  for (const name of Object.keys(errorTable)) {
    if (!raised.has(name)) problems.push(`Nothing raises ${name}: remove it from errorTable.`)
  }
  return problems
}

/** Codes that are handed to a call or a constructor, with the phases that stand beside them. */
function raisedIn(file, text) {
  const found = []
  const isPhase = (node) => ts.isStringLiteral(node) && Object.hasOwn(phaseTable, node.text)
  const phasesOf = (node) => [
    ...(ts.isPropertyAssignment(node) && node.name.text === 'phase' && isPhase(node.initializer)
      ? [node.initializer.text]
      : []),
    ...childrenOf(node).flatMap(phasesOf),
  ]
  const visit = (node) => {
    if (ts.isNewExpression(node) || ts.isCallExpression(node)) {
      const args = [...(node.arguments ?? [])]
      for (const arg of args.flatMap(literalsOf)) {
        if (!arg.text.startsWith('ERR_KVX_')) continue
        found.push({
          name: arg.text,
          phases: [...args.filter(isPhase).map((phase) => phase.text), ...args.flatMap(phasesOf)],
        })
      }
    }
    ts.forEachChild(node, visit)
  }
  visit(ts.createSourceFile(file, text, ts.ScriptTarget.Latest, false))
  return found
}

/** A literal, or both of a conditional. */
function literalsOf(node) {
  if (ts.isStringLiteral(node)) return [node]
  if (ts.isConditionalExpression(node)) return [node.whenTrue, node.whenFalse].flatMap(literalsOf)
  return []
}

function childrenOf(node) {
  const children = []
  ts.forEachChild(node, (child) => {
    children.push(child)
  })
  return children
}
