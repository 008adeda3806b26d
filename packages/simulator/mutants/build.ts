/** Builds of @kvx/core with a defect, made from its source. */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import ts from 'typescript'
import type { Edit, Mutant } from './mutant.ts'

/** The source of a mutant: every file that it changes, as it is then. */
export type Changed = ReadonlyMap<string, string>

/**
 * Applies the edits of a mutant to the source of core.
 *
 * @param source packages/core/src
 * @throws Error when a text to be replaced does not occur exactly once
 */
export function changedFiles(
  source: string,
  { name, edits }: Pick<Mutant, 'name' | 'edits'>,
): Changed {
  const files = new Map<string, string>()
  for (const edit of edits) {
    const text = files.get(edit.file) ?? readFileSync(join(source, edit.file), 'utf8')
    files.set(edit.file, applied(text, edit, name))
  }
  return files
}

function applied(text: string, { file, find, replace }: Edit, name: string): string {
  const count = text.split(find).length - 1
  if (count === 1) return text.replace(find, () => replace)
  throw new Error(
    `The mutant ${name} replaces a text that occurs ${count} times in packages/core/src/${file}, not once:\n${find}`,
  )
}

/** A build of core in a folder of its own, into which one mutant after another is put. */
export class MutatedCore {
  readonly folder = mkdtempSync(join(tmpdir(), 'kvx-mutants-'))
  readonly #source: string

  /** @param source packages/core/src; it is only read */
  constructor(source = coreSource()) {
    this.#source = source
    writeFileSync(join(this.folder, 'package.json'), '{ "type": "module" }')
    for (const file of readdirSync(source, { recursive: true, encoding: 'utf8' })) {
      if (file.endsWith('.ts')) this.#write(file, readFileSync(join(source, file), 'utf8'))
    }
  }

  /** Runs `action` while the build is the mutant. Throws as `changedFiles`. */
  async with<T>(mutant: Pick<Mutant, 'name' | 'edits'>, action: () => Promise<T>): Promise<T> {
    const changed = changedFiles(this.#source, mutant)
    try {
      for (const [file, text] of changed) this.#write(file, text)
      return await action()
    } finally {
      for (const file of changed.keys())
        this.#write(file, readFileSync(join(this.#source, file), 'utf8'))
    }
  }

  remove(): void {
    rmSync(this.folder, { recursive: true, force: true })
  }

  #write(file: string, text: string): void {
    const path = join(this.folder, file.replace(/\.ts$/, '.js'))
    mkdirSync(dirname(path), { recursive: true })
    writeFileSync(path, transpiled(file, text))
  }
}

/** packages/core/src of this repository. */
export function coreSource(): string {
  const entry = createRequire(import.meta.url).resolve('@kvx/core')
  return join(dirname(dirname(entry)), 'src')
}

function transpiled(fileName: string, text: string): string {
  const { outputText } = ts.transpileModule(text, {
    fileName,
    compilerOptions: {
      target: ts.ScriptTarget.ES2023,
      module: ts.ModuleKind.ESNext,
      verbatimModuleSyntax: true,
      rewriteRelativeImportExtensions: true,
    },
  })
  return outputText
}
