/** What a person needs to find out why a round has failed. */
import type { Window } from './judge.ts'
import type { Asked } from './load.ts'
import type { Cut, Fault } from './plan.ts'
import type { KvxProcess } from './process.ts'

export interface Evidence {
  /** Seed, engine and round. */
  readonly where: string
  readonly planned: readonly Fault[]
  readonly windows: readonly Window[]
  readonly problems: readonly string[]
  /** Requests with which something is wrong. */
  readonly wrong: readonly Asked[]
}

/** Of so many requests the log is shown; the others fail for the same reason, and their logs are there too. */
const mostTraces = 5

export function evidenceText(
  { where, planned, windows, problems, wrong }: Evidence,
  processes: readonly KvxProcess[],
): string {
  const indented = (lines: readonly string[]) => lines.map((line) => `  ${line}`)
  return [
    where,
    ...['', 'planned:', ...indented(planned.map(nameOf))],
    ...['', 'faults, until both workers served requests again:'],
    ...indented(
      windows.map(
        ({ fault, from, until }) => `${clock(from)} to ${clock(until)}: ${nameOf(fault)}`,
      ),
    ),
    ...['', 'failures:', ...indented(problems), ''],
    ...wrong
      .slice(0, mostTraces)
      .flatMap((asked) => [
        `what the workers logged of request ${String(asked.number)}:`,
        ...indented(trace(asked, processes)),
        '',
      ]),
  ].join('\n')
}

export function describe(
  { number, question, startedAt, endedAt = Infinity, direct }: Asked,
  why: string,
): string {
  const legs = direct ? ' (one leg)' : ''
  return `request ${String(number)}${legs} of ${String(question.prompt.length)} tokens, ${clock(startedAt)} to ${clock(endedAt)}: ${why}`
}

/** The events of both legs of a request in the order of time. */
function trace(
  { question, startedAt, endedAt = Infinity }: Asked,
  processes: readonly KvxProcess[],
): string[] {
  const events = processes.flatMap(({ name, events }) =>
    events.map((event) => ({ ...event, by: name })),
  )
  const rooms = new Set(
    events
      .filter(
        ({ name, tokens, time }) =>
          name === 'request.received' &&
          tokens === question.prompt.length &&
          time >= startedAt &&
          time <= endedAt,
      )
      .map(({ room }) => room),
  )
  return events
    .filter(({ room }) => room !== undefined && rooms.has(room))
    .sort((one, other) => one.time - other.time)
    .map(({ time, by, name, ...rest }) => `${clock(time)} ${by} ${name} ${JSON.stringify(rest)}`)
}

const nameOf = (fault: Fault | Cut) =>
  fault.kind === 'cut'
    ? `${String(fault.seconds)} s without a network between the workers`
    : `${fault.kind} ${fault.victim}, aimed at ${fault.aim}`

/** A moment as it stands in logs. */
const clock = (ms: number) => (Number.isFinite(ms) ? new Date(ms).toISOString() : 'the end')
