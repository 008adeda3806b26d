/** The process of a mutant of the protocol: schedules over its build, until it is found. */
import { runSchedule } from '@kvx/simulator'
import type { Hunt, Quarry } from './hunt.ts'

const { from, least, most, among } = JSON.parse(process.argv[2] ?? '{}') as Hunt

const found: Quarry = { schedules: 0, found: 0, first: undefined }
while (found.schedules < least || (found.found === 0 && found.schedules < most)) {
  const { violation } = runSchedule({ ...among, seed: from + found.schedules })
  found.schedules++
  if (!violation) continue
  // What does not even run proves nothing of the checks.
  if (/^(Reference|Type|Syntax)Error\b/.test(violation.text)) {
    throw new Error(`the mutant does not run: ${violation.text}`)
  }
  found.found++
  found.first ??= { seed: from + found.schedules - 1, ...violation }
}
process.stdout.write(JSON.stringify(found))
