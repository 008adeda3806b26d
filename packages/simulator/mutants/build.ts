/** Builds of @kvx/core with a defect, made from its source. */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import ts from 'typescript'
import type { Edit, Mutant } from './mutant.ts'

/** Texts of source files, by their path below packages/core/src. */
export type Source = ReadonlyMap<string, string>

type Defect = Pick<Mutant, 'name' | 'edits'>

/** The source of core as it is now. */
export function coreSource(): Source {
  const entry = createRequire(import.meta.url).resolve('@kvx/core')
  const folder = join(dirname(dirname(entry)), 'src')
  const files = readdirSync(folder, { recursive: true, encoding: 'utf8' })
  return new Map(
    files
      .filter((file) => file.endsWith('.ts'))
      .map((file) => [file, readFileSync(join(folder, file), 'utf8')]),
  )
}

/**
 * The files that a mutant changes, as they are then.
 *
 * @throws Error when a text to be replaced does not occur exactly once
 */
export function changedFiles(source: Source, { name, edits }: Defect): Source {
  const changed = new Map<string, string>()
  for (const edit of edits) {
    const text = changed.get(edit.file) ?? source.get(edit.file) ?? ''
    changed.set(edit.file, applied(text, edit, name))
  }
  return changed
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
  readonly #source: Source

  constructor(source: Source) {
    this.#source = source
    writeFileSync(join(this.folder, 'package.json'), '{ "type": "module" }')
    this.#write(source)
  }

  /** Runs `action` while the build is the mutant. Throws as `changedFiles`. */
  async with<T>(defect: Defect, action: () => Promise<T>): Promise<T> {
    const changed = changedFiles(this.#source, defect)
    this.#write(changed)
    try {
      return await action()
    } finally {
      this.#write(new Map([...this.#source].filter(([file]) => changed.has(file))))
    }
  }

  remove(): void {
    rmSync(this.folder, { recursive: true, force: true })
  }

  #write(files: Source): void {
    for (const [file, text] of files) {
      const path = join(this.folder, file.replace(/\.ts$/, '.js'))
      mkdirSync(dirname(path), { recursive: true })
      writeFileSync(path, transpiled(file, text))
    }
  }
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
