/** Builds of @kvx/core with a defect, made from its source. */
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import ts from 'typescript'
import type { Edit, Mutant } from './mutant.ts'

/** Texts of source files, by their path below packages/core/src. */
export type Source = ReadonlyMap<string, string>

/** Of this repository: as far away from the source of this file as from its build. */
const packages = join(import.meta.dirname, '../../..')

type Defect = Pick<Mutant, 'name' | 'edits' | 'by'>

/** The source of core as it is now. */
export function coreSource(): Source {
  const folder = join(packages, 'core/src')
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

/**
 * A folder with these proofs, a simulator and a core of its own, into which one mutant after another is put. It lies
 * below the repository, where they find what else they depend on.
 */
export class Laboratory {
  readonly #folder: string
  readonly #source: Source

  constructor(source: Source) {
    this.#source = source
    const cache = join(packages, '../node_modules/.cache/kvx')
    mkdirSync(cache, { recursive: true })
    this.#folder = mkdtempSync(join(cache, 'mutants-'))
    for (const name of ['core', 'simulator', 'proofs']) {
      const copy = join(this.#folder, 'node_modules/@kvx', name)
      mkdirSync(copy, { recursive: true })
      cpSync(join(packages, name, 'package.json'), join(copy, 'package.json'))
      if (name !== 'core')
        cpSync(join(packages, name, 'dist'), join(copy, 'dist'), { recursive: true })
    }
    this.#write(source)
  }

  /** Runs `action` with the program that looks for this mutant. Throws as `changedFiles`. */
  async with<T>(defect: Defect, action: (program: string) => Promise<T>): Promise<T> {
    const changed = changedFiles(this.#source, defect)
    this.#write(changed)
    try {
      return await action(this.#program(defect.by ?? 'schedules'))
    } finally {
      this.#write(new Map([...this.#source].filter(([file]) => changed.has(file))))
    }
  }

  #program(by: Required<Mutant>['by']): string {
    return this.file(`mutants/${by}.js`)
  }

  /** Of these proofs, with the core that is there now. */
  file(name: string): string {
    return join(this.#folder, 'node_modules/@kvx/proofs/dist', name)
  }

  remove(): void {
    rmSync(this.#folder, { recursive: true, force: true })
  }

  #write(files: Source): void {
    for (const [file, text] of files) {
      const built = file.replace(/\.ts$/, '.js')
      const path = join(this.#folder, 'node_modules/@kvx/core/dist', built)
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
