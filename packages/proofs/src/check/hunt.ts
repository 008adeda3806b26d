/** The process of a mutant: one world after another, until it is found. */
import { mustHaveRun } from '../mutants/program.ts'
import { explore } from './explore.ts'
import type { Caught, Search } from './mutants.ts'
import { worlds } from './worlds.ts'

const search = JSON.parse(process.argv[2] ?? '') as Search

function hunt(): Caught | undefined {
  for (const name of search.worlds) {
    const spec = worlds.find((one) => one.name === name)
    if (!spec) throw new Error(`there is no world ${name}`)
    const { found, states } = explore(spec, { memory: 2.5e9, states: search.states })
    if (!found) continue
    mustHaveRun(found)
    return { world: name, states, found }
  }
  return undefined
}

process.stdout.write(JSON.stringify({ caught: hunt() }))
