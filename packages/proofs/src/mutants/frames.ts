/** The process of a mutant of who is believed: mutated frames, of any peer and over any connection. */
import { Finding, fuzzReducers } from '../fuzz/reducers.ts'
import type { Hunt, Quarry } from './hunt.ts'

const frames = 20_000

const { from: seed } = JSON.parse(process.argv[2] ?? '{}') as Hunt

/** What the fuzzer finds. */
function finding(): Quarry['first'] {
  try {
    fuzzReducers({ seed, frames, everyHash: 1 })
    return undefined
  } catch (cause) {
    if (!(cause instanceof Finding)) throw cause
    return { seed, check: 'frames', text: cause.message }
  }
}

Error.stackTraceLimit = 0
const first = finding()
const quarry: Quarry = { schedules: 1, found: first ? 1 : 0, first }
process.stdout.write(JSON.stringify(quarry))
