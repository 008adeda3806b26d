/** A broken engine as a module that Node can load. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import ts from 'typescript'
import type { BrokenEngine } from './list.ts'

const example = new URL('../../../../examples/engine-typescript/src/index.ts', import.meta.url)
const source = readFileSync(example, 'utf8')
const folder = new URL('./build/', import.meta.url)

/** Writes it and answers where it is. @throws Error when a text to replace does not stand in the example exactly once */
export function buildBroken({ name, does }: BrokenEngine): URL {
  if (typeof does === 'string') return new URL(does, import.meta.url)
  let text = source
  for (const [from, to] of does) {
    const parts = text.split(from)
    if (parts.length !== 2)
      throw new Error(`'${name}': ${JSON.stringify(from)} stands there ${parts.length - 1} times.`)
    text = parts.join(to)
  }
  const { outputText } = ts.transpileModule(text, {
    compilerOptions: { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2023 },
  })
  mkdirSync(folder, { recursive: true })
  const url = new URL(`${name.replaceAll(/\W+/g, '-')}.mjs`, folder)
  writeFileSync(url, outputText)
  return url
}
