/** What was explored, for a person. */
import type { Explored } from './explore.ts'

const header = ['world', 'faults', 'states', 'transitions', 'depth', 'seconds', 'exhausted']
const widths = [17, 8, 11, 13, 7, 9, 0]

const line = (cells: readonly string[]) =>
  cells.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))).join(' ')

export const headline = line(header)

export function lineOf({
  world,
  faults,
  states,
  transitions,
  depth,
  seconds,
  bound,
  found,
}: Explored): string {
  const end = found
    ? `VIOLATION: ${found.check}`
    : bound === undefined
      ? 'yes'
      : `no: ${bound} bound`
  return line([
    ...[world, String(faults), String(states), String(transitions), String(depth)],
    ...[seconds.toFixed(1), `  ${end}`],
  ])
}

export function violationOf({ world, found }: Explored): string {
  if (!found) return ''
  return [
    `\n${found.check}: ${found.text}`,
    `shortest schedule in ${world}:`,
    ...found.schedule,
  ].join('\n')
}
