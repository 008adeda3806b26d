#!/usr/bin/env node
/** `npm run mutants`. */
import { readFileSync, writeFileSync } from 'node:fs'
import { exitCode, readFlags, usageError, whole } from '../command.ts'
import { coreSource, Laboratory } from './build.ts'
import { hunt, type Quarry } from './hunt.ts'
import { mutants } from './list.ts'
import { unchanged, type Mutant } from './mutant.ts'
import { markdown, table } from './report.ts'

const help = `Puts one defect after another into a copy of @kvx/core, and has it looked for: by schedules of the simulator, by a
flood of strangers at a control port, or by mutated frames.

  npm run mutants -- [options]

  --schedules N    schedules after which a mutant counts as not found (default 4000)
  --from S         first seed (default 1)
  --only TEXT      only mutants whose name has this in it
  --markdown       print the table as markdown
  --write-seeds    note for the tests where each mutant was found (seeds.json)
  --help

In schedules a mutant is looked for in the first 200, and on until it is found for the first time.
Exit code: 0 all were found, 1 one was not, or core as it is fails, 2 wrong flags.`

async function main(): Promise<number> {
  const values = readFlags({
    schedules: { type: 'string', default: '4000' },
    from: { type: 'string', default: '1' },
    only: { type: 'string', default: '' },
    markdown: { type: 'boolean', default: false },
    'write-seeds': { type: 'boolean', default: false },
  })
  if (values.help) {
    process.stdout.write(`${help}\n`)
    return 0
  }
  const most = whole('schedules', values.schedules, { least: 1 })
  const from = whole('from', values.from)
  const chosen = mutants.filter(({ name }) => name.includes(values.only))
  if (chosen.length === 0) throw usageError(`no mutant has '${values.only}' in its name`)
  const least = Math.min(200, most)
  const laboratory = new Laboratory(coreSource())
  const rows: { mutant: Mutant; quarry: Quarry }[] = []
  try {
    for (const none of unchanged.filter(({ by }) => chosen.some((mutant) => mutant.by === by))) {
      const { first } = await laboratory.with(none, (program) =>
        hunt(program, { from, least, most: least }),
      )
      if (!first) continue
      process.stderr.write(`Core as it is fails at seed ${first.seed}: ${first.text}\n`)
      return 1
    }
    for (const mutant of chosen) {
      const row = {
        mutant,
        quarry: await laboratory.with(mutant, (program) =>
          hunt(program, { from, least, most, among: mutant.among }),
        ),
      }
      rows.push(row)
      process.stderr.write(`${table([row])}\n`)
    }
  } finally {
    laboratory.remove()
  }
  if (values.markdown) process.stdout.write(`${markdown(rows)}\n`)
  if (values['write-seeds']) writeSeeds(rows)
  const lost = rows.filter(({ quarry }) => quarry.found === 0).map(({ mutant }) => mutant.name)
  process.stderr.write(`${rows.length - lost.length} of ${rows.length} mutants found\n`)
  if (lost.length > 0) process.stderr.write(`Not found: ${lost.join(', ')}\n`)
  return lost.length > 0 ? 1 : 0
}

function writeSeeds(rows: readonly { mutant: Mutant; quarry: Quarry }[]): void {
  const seeds = rows.flatMap(({ mutant, quarry }) =>
    quarry.first ? [[mutant.name, quarry.first.seed] as const] : [],
  )
  const file = new URL('../../src/mutants/seeds.json', import.meta.url)
  const known = JSON.parse(readFileSync(file, 'utf8')) as Record<string, number>
  const all = new Map([...Object.entries(known), ...seeds])
  const kept = mutants.flatMap(({ name }) => (all.has(name) ? [[name, all.get(name)]] : []))
  writeFileSync(file, `${JSON.stringify(Object.fromEntries(kept), undefined, 2)}\n`)
}

process.exitCode = await exitCode(main)
