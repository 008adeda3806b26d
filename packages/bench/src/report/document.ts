/** The JSON form of a report: what it holds, and reading an earlier one. */
import { readFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { KvxError, systemReason } from '@kvx/contract'
import * as v from 'valibot'
import type { Findings } from './findings.ts'
import { thisMachine, type Machine } from './machine.ts'

/** Changes whenever a reader of the old form would misread the new one. */
const schema = 'kvx-bench-report/1'

const measure = v.object({
  name: v.string(),
  unit: v.string(),
  value: v.number(),
  least: v.exactOptional(v.number()),
  most: v.exactOptional(v.number()),
  better: v.picklist(['higher', 'lower']),
})

const document = v.object({
  schema: v.literal(schema),
  command: v.string(),
  startedAt: v.string(),
  ok: v.boolean(),
  interrupted: v.boolean(),
  versions: v.record(v.string(), v.string()),
  machine: v.object({
    cpu: v.string(),
    cores: v.number(),
    memoryBytes: v.number(),
    freeBytes: v.number(),
    system: v.string(),
    load: v.number(),
  }),
  settings: v.record(v.string(), v.unknown()),
  measures: v.array(measure),
  result: v.unknown(),
}) satisfies v.GenericSchema<unknown, ReportDocument>

/** A report as JSON: what was measured, by what, where and how. */
export interface ReportDocument extends Heading, Omit<Findings, 'tables' | 'charts'> {
  /** The form of this object. */
  readonly schema: typeof schema
}

const { version } = JSON.parse(
  readFileSync(new URL('../../package.json', import.meta.url), 'utf8'),
) as { version: string }

/** What is the same for a whole run, taken before it begins. */
export interface Heading {
  /** `compare`, `load`, … */
  readonly command: string
  /** ISO 8601. */
  readonly startedAt: string
  readonly machine: Machine
}

export const beginReport = (command: string): Heading => ({
  command,
  startedAt: new Date().toISOString(),
  machine: thisMachine(),
})

export function documentOf(heading: Heading, findings: Findings): ReportDocument {
  const { ok, interrupted, settings, versions, measures, result } = findings
  return {
    schema,
    ...{ ...heading, machine: { ...heading.machine }, ok, interrupted },
    versions: { kvx: version, node: process.version, ...versions },
    ...{ settings: { ...settings }, measures: [...measures], result },
  }
}

/** @throws KvxError `ERR_KVX_INVALID_ARGUMENT` when it cannot be read, or is no report of this command */
export async function readDocument(path: string, command: string): Promise<ReportDocument> {
  const refuse = (why: string, cause?: unknown): KvxError =>
    new KvxError('ERR_KVX_INVALID_ARGUMENT', `The baseline ${path} ${why}.`, { cause })
  let parsed: unknown
  try {
    parsed = JSON.parse(await readFile(path, 'utf8'))
  } catch (cause) {
    throw refuse(`cannot be read: ${systemReason(cause)}`, cause)
  }
  const checked = v.safeParse(document, parsed)
  if (!checked.success) {
    const [issue] = checked.issues
    const where = v.getDotPath(issue) ?? 'the whole'
    throw refuse(`is no report of kvx bench (${where}: ${issue.message})`)
  }
  if (checked.output.command !== command) {
    throw refuse(`is a report of kvx bench ${checked.output.command}, not of ${command}`)
  }
  return checked.output
}
