/** Where the findings of a measurement go: the terminal, JSON, and a folder with charts and a page. */
import { access, mkdir, writeFile } from 'node:fs/promises'
import { constants } from 'node:fs'
import { join } from 'node:path'
import type { ArgsDef } from 'citty'
import type { Findings, Heading, ReportDocument } from '@kvx/bench'
import { isKvxError, systemReason } from '@kvx/contract'
import type { Flags } from '../../flags.ts'
import { UsageError } from '../../usage.ts'

export const outputFlags = {
  report: {
    type: 'string',
    valueHint: 'FOLDER',
    description: 'Write report.json, report.html and charts as SVG there',
  },
  baseline: {
    type: 'string',
    valueHint: 'FILE',
    description: 'An earlier report.json of the same command: tell what has changed since',
  },
  json: { type: 'boolean', description: 'Print the report as JSON instead of tables' },
} as const satisfies ArgsDef

/** Milliseconds that a run which was ended has to tell what it has. */
export const tellingMs = 30_000

export class Output {
  readonly #heading: Heading
  readonly #folder: string | undefined
  readonly #isJson: boolean
  readonly #baseline: ReportDocument | undefined

  private constructor(heading: Heading, flags: Flags, baseline: ReportDocument | undefined) {
    this.#heading = heading
    this.#folder = flags.string('report')
    this.#isJson = flags.has('json')
    this.#baseline = baseline
  }

  /**
   * Before anything is measured, so that a run of hours does not end with a file that cannot be read or written.
   * @throws UsageError
   */
  static async open(command: string, flags: Flags): Promise<Output> {
    const { beginReport, readDocument } = await import('@kvx/bench')
    const [baseline, folder] = [flags.string('baseline'), flags.string('report')]
    try {
      if (folder !== undefined) {
        await mkdir(folder, { recursive: true })
        await access(folder, constants.W_OK)
      }
    } catch (cause) {
      throw new UsageError(
        `--report: ${String(folder)} cannot be written: ${systemReason(cause)}.`,
        { cause },
      )
    }
    try {
      const before = baseline === undefined ? undefined : await readDocument(baseline, command)
      return new Output(beginReport(command), flags, before)
    } catch (cause) {
      throw isKvxError(cause) ? new UsageError(cause.message, { cause }) : cause
    }
  }

  /**
   * @param text instead of the tables
   * @returns the exit code
   */
  async tell(findings: Findings, text?: string): Promise<number> {
    const { comparison, documentOf, tableText } = await import('@kvx/bench')
    const report = documentOf(this.#heading, findings)
    const tables = [
      ...findings.tables,
      ...(this.#baseline ? [comparison(report, this.#baseline)] : []),
    ]
    if (this.#isJson) process.stdout.write(`${JSON.stringify(report)}\n`)
    else {
      process.stdout.write(text ?? `${tables.map(tableText).join('\n')}\n`)
      if (findings.interrupted) process.stdout.write('ended early: this was measured until then\n')
      process.stdout.write(findings.ok ? 'good\n' : 'NOT GOOD\n')
    }
    if (this.#folder !== undefined) await write(this.#folder, report, findings, tables)
    return findings.ok ? 0 : 1
  }
}

async function write(
  folder: string,
  report: ReportDocument,
  { charts }: Findings,
  tables: Findings['tables'],
): Promise<void> {
  // First what took long to find out.
  await writeFile(join(folder, 'report.json'), `${JSON.stringify(report, null, 2)}\n`)
  const { pageOf, svgOf } = await import('@kvx/bench')
  const drawn = await Promise.all(
    charts.map(async (chart) => ({ ...chart, svg: await svgOf(chart) })),
  )
  for (const { name, svg } of drawn) await writeFile(join(folder, `${name}.svg`), svg)
  await writeFile(join(folder, 'report.html'), pageOf(report, tables, drawn))
  process.stderr.write(`report in ${folder}\n`)
}

/**
 * Does it; what is wrong with what was asked for is the caller's to mend.
 * @throws UsageError instead of `ERR_KVX_INVALID_ARGUMENT`
 */
export async function usable<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (cause) {
    if (!isKvxError(cause) || cause.code !== 'ERR_KVX_INVALID_ARGUMENT') throw cause
    throw new UsageError(cause.message, { cause })
  }
}
