#!/usr/bin/env node
/** `npm run mutants`. */
import { parseArgs } from 'node:util'
import { coreSource, MutatedCore } from './build.ts'
import { hunt, type Quarry } from './hunt.ts'
import { mutants } from './list.ts'
import { unchanged, type Mutant } from './mutant.ts'
import { markdown, table } from './report.ts'

const help = `Puts one defect after another into a copy of @kvx/core, and has the simulator look for it.

  npm run mutants --workspace @kvx/simulator -- [options]

  --schedules N    schedules after which a mutant counts as not found (default 2000)
  --from S         first seed (default 1)
  --only TEXT      only mutants whose name has this in it
  --markdown       print the table as markdown
  --help

Each mutant is looked for in the first 200 schedules, then until it is found for the first time.
Exit code: 0 all were found, 1 one was not.`

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      schedules: { type: 'string', default: '2000' },
      from: { type: 'string', default: '1' },
      only: { type: 'string', default: '' },
      markdown: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  })
  if (values.help) {
    process.stdout.write(`${help}\n`)
    return 0
  }
  const most = Number(values.schedules)
  const from = Number(values.from)
  if (!Number.isInteger(most) || most < 1 || !Number.isInteger(from) || from < 0)
    throw new Error('--schedules and --from must be whole numbers.')
  const chosen = mutants.filter(({ name }) => name.includes(values.only))
  if (chosen.length === 0) throw new Error(`No mutant has '${values.only}' in its name.`)
  const core = new MutatedCore(coreSource())
  const rows: { mutant: Mutant; quarry: Quarry }[] = []
  try {
    const options = { core: core.folder, from, least: Math.min(200, most), most }
    const { first } = await core.with(unchanged, () => hunt({ ...options, most: 0 }))
    if (first) {
      process.stdout.write(`Core as it is fails already, at seed ${first.seed}: ${first.text}\n`)
      process.exitCode = 1
    }
    for (const mutant of chosen) {
      const quarry = await core.with(mutant, () => hunt(options))
      rows.push({ mutant, quarry })
      process.stderr.write(`${table([{ mutant, quarry }])}\n`)
    }
  } finally {
    core.remove()
  }
  const lost = rows.filter(({ quarry }) => quarry.found === 0)
  process.stdout.write(values.markdown ? `${markdown(rows)}\n` : '')
  process.stdout.write(
    `${rows.length - lost.length} of ${rows.length} mutants found${lost.length > 0 ? `; not found: ${lost.map(({ mutant }) => mutant.name).join(', ')}` : ''}\n`,
  )
  return lost.length > 0 || process.exitCode === 1 ? 1 : 0
}

process.exitCode = await main()
