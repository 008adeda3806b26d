/** Tables of mutants and how they were found. */
import type { Quarry } from './hunt.ts'
import type { Mutant } from './mutant.ts'

export interface Row {
  readonly mutant: Mutant
  readonly quarry: Quarry
}

export function table(rows: readonly Row[]): string {
  return rows
    .map(
      ({ mutant: { name, invariant }, quarry }) =>
        `${name.padEnd(32)} ${invariant}  ${found(quarry).padStart(12)}  ${sentence(quarry)}`,
    )
    .join('\n')
}

export function markdown(rows: readonly Row[]): string {
  const lines = rows.map(({ mutant, quarry }) =>
    [`\`${mutant.name}\``, mutant.says, mutant.invariant, found(quarry), sentence(quarry)]
      .map((cell) => String(cell).replaceAll('|', '\\|'))
      .join(' | '),
  )
  return [
    '| mutant | the defect | invariant | found in schedules | as |',
    '| --- | --- | --- | --- | --- |',
    ...lines.map((line) => `| ${line} |`),
  ].join('\n')
}

function found({ found, schedules }: Quarry): string {
  return `${found} of ${schedules}`
}

function sentence({ first }: Quarry): string {
  return first ? (first.text.split('\n')[0] ?? '') : 'NOT FOUND'
}
