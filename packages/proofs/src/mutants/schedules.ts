/** The process of a mutant of the protocol: schedules over its build, until it is found. */
import { runSchedule } from '@kvx/simulator'
import type { Hunt, Quarry } from './hunt.ts'
import { mustHaveRun } from './program.ts'

const { from, least, most, among } = JSON.parse(process.argv[2] ?? '{}') as Hunt

const found: Quarry = { schedules: 0, found: 0, first: undefined }
while (found.schedules < least || (found.found === 0 && found.schedules < most)) {
  const { violation } = runSchedule({ ...among, seed: from + found.schedules })
  found.schedules++
  if (!violation) continue
  mustHaveRun(violation)
  found.found++
  found.first ??= { seed: from + found.schedules - 1, ...violation }
}
process.stdout.write(JSON.stringify(found))
