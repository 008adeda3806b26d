/** A report as one HTML file that needs nothing beside itself. */
import type { ReportDocument } from './document.ts'
import type { Table } from './findings.ts'

/** @param charts whole SVG files, with their titles */
export function pageOf(
  report: ReportDocument,
  tables: readonly Table[],
  charts: readonly { readonly title: string; readonly svg: string }[],
): string {
  const { command, startedAt, machine, versions, settings, interrupted } = report
  const facts = {
    measured: startedAt,
    machine: `${machine.cpu}, ${String(machine.cores)} cores, ${(machine.memoryBytes / 2 ** 30).toFixed(0)} GiB, ${machine.system}; load before the run ${machine.load.toFixed(2)}`,
    versions: Object.entries(versions)
      .map((pair) => pair.join(' '))
      .join(', '),
    settings: JSON.stringify(settings),
  }
  const list = Object.entries(facts).map(
    ([name, text]) => `<dt>${name}</dt><dd>${escape(text)}</dd>`,
  )
  const figures = charts.map(
    ({ title, svg }) => `<figure><figcaption>${escape(title)}</figcaption>${svg}</figure>`,
  )
  // A script's content ends only at its end tag, which `<` begins.
  const data = JSON.stringify(report).replaceAll('<', '\\u003c')
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>kvx bench ${command}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; color: #222; background: #fff; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border: 1px solid #ddd; padding: .2rem .6rem; text-align: left; white-space: nowrap; }
th { background: #f4f4f4; }
section { overflow-x: auto; }
dt { font-weight: 600; } dd { margin: 0 0 .4rem; overflow-wrap: anywhere; }
figure { margin: 1.5rem 0; } figcaption { font-weight: 600; } svg { max-width: 100%; height: auto; }
</style>
</head>
<body>
<h1>kvx bench ${command}</h1>
${interrupted ? '<p><strong>The run was ended early: this is what it had measured until then.</strong></p>' : ''}
<dl>${list.join('')}</dl>
${tables.map(tableHtml).join('\n')}
${figures.join('\n')}
<script type="application/json" id="report">${data}</script>
</body>
</html>
`
}

function tableHtml({ title, head, rows, notes = [] }: Table): string {
  const cells = (row: readonly string[], tag: string): string =>
    `<tr>${row.map((cell) => `<${tag}>${escape(cell)}</${tag}>`).join('')}</tr>`
  const body = rows.map((row) => cells(row, 'td')).join('\n')
  const below = notes.map((note) => `<p>${escape(note)}</p>`).join('')
  return `<section><h2>${escape(title)}</h2><table>${cells(head, 'th')}\n${body}</table>${below}</section>`
}

function escape(text: string): string {
  return text
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll('"', '&quot;')
}
