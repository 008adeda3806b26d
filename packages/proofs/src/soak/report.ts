/** What a soak has found, as text that a person reads, in Markdown. */
import { table } from '../chaos/report.ts'
import { kinds } from './faults.ts'
import { leastSpanMs, type Measured } from './settings.ts'
import type { SoakReport } from './run.ts'

export function soakText({ engines, slopes, seconds, notCut }: SoakReport): string {
  const names = Object.keys(engines)
  const row = (what: string, of: (name: string) => string | number) => [what, ...names.map(of)]
  const codes = [
    ...new Set(Object.values(engines).flatMap(({ affected }) => Object.keys(affected))),
  ].sort()
  const requests = [
    row('requests', (name) => engines[name]!.requests),
    row('ok, every byte looked at', (name) => engines[name]!.ok),
    row('aborted, and ended so', (name) => engines[name]!.aborted),
    ...codes.map((code) =>
      row(`hit by a fault: ${code}`, (name) => engines[name]!.affected[code] ?? 0),
    ),
    row('wrong', (name) => engines[name]!.wrong),
    row('lost', (name) => engines[name]!.lost),
    row('GB that are right', (name) => (engines[name]!.bytes / 1e9).toFixed(2)),
    ...kinds.map((kind) => row(`faults: ${kind}`, (name) => engines[name]!.faults[kind])),
    row('slowest error after a fault, s', (name) =>
      (engines[name]!.slowestErrorMs / 1_000).toFixed(1),
    ),
    row('slowest recovery, s', (name) => (engines[name]!.slowestRecoveryMs / 1_000).toFixed(1)),
  ]
  const shown = slopes.map(
    ({ worker, what, first, last, most, perHour, error, bound, isGrowing }) => [
      ...[worker, unitOf[what].name],
      ...[first, last, most].map((value) => inUnit(what, value)),
      `${inUnit(what, perHour)} ± ${inUnit(what, error)}`,
      inUnit(what, bound),
      isGrowing === undefined ? 'too short' : isGrowing ? 'GROWS' : 'holds',
    ],
  )
  return [
    `${(seconds / 60).toFixed(1)} min of load and faults.${notCut === undefined ? '' : ` Connections were not cut: ${notCut}.`}`,
    '',
    ...table(['', ...names], requests),
    '',
    ...table(
      ['never killed', 'what', 'first', 'last', 'most', 'an hour', 'bound', 'verdict'],
      shown,
    ),
    '',
    `First, last, most and slope are those after the warm-up; a slope needs ${String(leastSpanMs / 60_000)} minutes.`,
    'Bounds have in them what vendors keep for each link that a fault has ended.',
    '',
  ].join('\n')
}

const unitOf: Readonly<Record<Measured, { name: string; divisor: number; digits: number }>> = {
  'resident bytes': { name: 'private memory, MB', divisor: 1e6, digits: 1 },
  'heap bytes': { name: 'heap after collection, MB', divisor: 1e6, digits: 2 },
  descriptors: { name: 'descriptors', divisor: 1, digits: 1 },
  threads: { name: 'threads', divisor: 1, digits: 1 },
  'quarantined pages': { name: 'pages in quarantine', divisor: 1, digits: 1 },
}

const inUnit = (what: Measured, value: number) =>
  (value / unitOf[what].divisor).toFixed(unitOf[what].digits)
