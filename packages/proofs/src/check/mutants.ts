/** The defects of `mutants/`, looked for in small worlds: which is found where, and which cannot be. */
import { readFileSync } from 'node:fs'
import { coreSource, Laboratory } from '../mutants/build.ts'
import { mutants } from '../mutants/list.ts'
import type { Mutant } from '../mutants/mutant.ts'
import { answerOf } from '../mutants/program.ts'
import type { Found } from './explore.ts'
import { tooSmallFor } from './too-small.ts'

/** Of one mutant: in which world it was found, after how many states. */
export interface Caught {
  readonly world: string
  readonly states: number
  readonly found: Found
}

/** What a program of the laboratory is asked for. */
export interface Search {
  /** Names of the worlds, in which it is looked for one after another. */
  readonly worlds: readonly string[]
  /** States of each after which it is looked for in the next one. */
  readonly states: number
}

/**
 * @param program of the laboratory
 * @throws Error as `answerOf`
 */
export async function catchIt(program: string, search: Search): Promise<Caught | undefined> {
  const flags = ['--max-old-space-size=3000']
  return (await answerOf<{ caught?: Caught }>(program, search, flags)).caught
}

/** Worlds in which mutants are looked for, the cheapest first. */
export const huntingGrounds = [
  ...[
    'calm',
    'late-pages',
    'two-writes',
    'prefix',
    'by-layers',
    'queued',
    'digests',
    'without-leg',
    'gone',
  ],
  ...[
    'unsaid',
    'replaced',
    'replaced-sockets',
    'write',
    'one-by-one',
    'unsaid-abort',
    'abandoned',
    'lost',
  ],
  ...['without-pages', 'crash', 'said-again', 'revoked', 'peer', 'engine', 'sockets', 'digests'],
]

/** States of each world in which a mutant is looked for, and one that it is held not to show. */
const enough = 60_000
const few = 2_000

/** Where the simulator has found it. */
export function seedOf(name: string): string {
  const file = new URL('../../src/mutants/seeds.json', import.meta.url)
  const seed = (JSON.parse(readFileSync(file, 'utf8')) as Record<string, number>)[name]
  if (seed === undefined) throw new Error(`nothing has found the mutant ${name}`)
  return String(seed)
}

export const isOfProtocol = ({ by, edits }: Mutant) =>
  by === undefined && edits.some(({ file }) => file.startsWith('protocol/'))

/** Prints a table. The answer: every mutant that small worlds can show was found. */
export async function checkMutants(only: string, print: (line: string) => void): Promise<boolean> {
  const laboratory = new Laboratory(coreSource())
  let isRight = true
  try {
    print('| mutant | found in | states | as |\n| --- | --- | --- | --- |')
    for (const mutant of mutants.filter(({ name }) => name.includes(only))) {
      const { name } = mutant
      if (!isOfProtocol(mutant)) continue
      const reason = tooSmallFor[name]
      const states = reason === undefined ? enough : few
      const caught = await laboratory.with(mutant, () =>
        catchIt(laboratory.file('check/hunt.js'), { worlds: huntingGrounds, states }),
      )
      // What holds true of these worlds today may not tomorrow.
      isRight &&= (caught === undefined) === (reason !== undefined)
      if (reason !== undefined && !caught) {
        print(`| \`${name}\` | – | – | ${reason}; a schedule does, of seed ${seedOf(name)} |`)
        continue
      }
      print(
        caught
          ? `| \`${name}\` | ${caught.world} | ${String(caught.states)} | ${caught.found.check} |`
          : `| \`${name}\` | NOT FOUND | | |`,
      )
    }
  } finally {
    laboratory.remove()
  }
  return isRight
}
