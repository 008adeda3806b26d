/** Charts as SVG, drawn by Observable Plot on a document that is none of a browser. */
import type * as PlotModule from '@observablehq/plot'
import type { Chart } from './findings.ts'

/** @returns a whole SVG file, with its title */
export async function svgOf({ title, kind, x, y, points }: Chart): Promise<string> {
  // Loaded late: most runs draw nothing.
  const [Plot, { parseHTML }] = await Promise.all([
    import('@observablehq/plot'),
    import('linkedom'),
  ])
  // Its types are those of browsers, which are not here.
  const page = (parseHTML as (html: string) => { document: never })('<!doctype html><html></html>')
  const data = points.map((point) => ({
    ...point,
    low: point.least ?? point.y,
    high: point.most ?? point.y,
  }))
  const marks =
    kind === 'line'
      ? [
          Plot.ruleX(data, { x: 'x', y1: 'low', y2: 'high', stroke: 'series', strokeOpacity: 0.5 }),
          Plot.line(data, { x: 'x', y: 'y', stroke: 'series' }),
          Plot.dot(data, { x: 'x', y: 'y', fill: 'series' }),
        ]
      : [
          Plot.barY(data, { fx: 'x', x: 'series', y: 'y', fill: 'series' }),
          Plot.ruleX(data, { fx: 'x', x: 'series', y1: 'low', y2: 'high' }),
          Plot.ruleY([0]),
        ]
  const names = [...new Set(points.map(({ series }) => series))]
  const svg = Plot.plot({
    document: page.document,
    ...{ width: 720, height: 360, marginLeft: 64, marginRight: 170, marginBottom: 44 },
    style: { background: 'white', color: 'black', fontSize: '12px', fontFamily: 'sans-serif' },
    color: { domain: names, scheme: 'Observable10' },
    y: { label: y.label, grid: true, zero: true, nice: true },
    ...(kind === 'line'
      ? { x: { label: x.label, type: x.scale ?? 'linear', ...ticksOf(x.scale, points) } }
      : { x: { axis: null, domain: names }, fx: { label: x.label, padding: 0.2 } }),
    marks: [
      ...marks,
      Plot.frame({ stroke: '#ccc' }),
      ...legend(Plot, names, kind === 'bar' ? points.at(-1)?.x : undefined),
    ],
  }) as unknown as { setAttribute(name: string, value: string): void; outerHTML: string }
  svg.setAttribute('xmlns', 'http://www.w3.org/2000/svg')
  svg.setAttribute('role', 'img')
  svg.setAttribute('aria-label', title)
  return `${svg.outerHTML}\n`
}

/** A logarithmic axis is read at what was measured. */
function ticksOf(scale: Chart['x']['scale'], points: Chart['points']) {
  if (scale !== 'log') return {}
  return { ticks: [...new Set(points.map(({ x }) => Number(x)))], tickFormat: 'd' }
}

/**
 * Names beside the frame, in the colours of their series: a legend of Plot's own would be HTML around the SVG.
 *
 * @param fx of the last frame, where there are several
 */
function legend(
  Plot: typeof PlotModule,
  names: readonly string[],
  fx: number | string | undefined,
) {
  return names.map((name, i) =>
    Plot.text([name], {
      text: (one: string) => one,
      ...(fx !== undefined && { fx: () => fx }),
      ...{ frameAnchor: 'top-right', textAnchor: 'start', dx: 12, dy: 4 + 18 * i },
      fill: () => name,
    }),
  )
}
