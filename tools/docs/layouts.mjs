/**
 * The pictures and tables of docs/layouts.md. They show what the code answers: who sends what comes from the election,
 * pages and orders from plans, sizes from the table of models.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { modelNames, ranksOf, shapeOf } from '../../packages/bench/dist/index.js'
import {
  countHeld,
  electedUnits,
  heldTokens,
  heldUnits,
  makeRank,
  Pairing,
} from '../../packages/core/dist/bytes.js'
import { root } from '../lib/repository.mjs'
import { box, colours, line, picture, words } from './svg.mjs'
import { code, table } from './table.mjs'

const number = (value) => value.toLocaleString('en-US')
const upTo = (count) => Array.from({ length: count }, (_, i) => i)

/** One component `kv` with one tensor for each layer. */
function shapeWith({ layers = 1, units, unitBytes = 1, elementBytes = 1 }) {
  const tensor = { part: 'k', dtype: 'u8', units, unitBytes, elementBytes }
  const tensors = upTo(layers).map((layer) => ({ ...tensor, layer }))
  return { model: 'm', layers, components: [{ name: 'kv', addressed: 'tokens', tensors }] }
}

function cacheOf(rank, { pageTokens, pageBytes, pages = 16, order = 'NHD' }) {
  const at = { component: 'kv', layer: 0, part: 'k', region: 0, base: 0, pageBytes, order }
  return { rank, place: { components: { kv: { pageTokens, pages } }, tensors: [at] } }
}

/** A page in each order, byte after byte. Which byte is which: as a plan from that order to `NHD` moves them. */
function orders() {
  const [tokens, units, elements] = [4, 2, 3]
  const bytes = tokens * units * elements
  const shape = shapeWith({ units, unitBytes: elements })
  const rank = makeRank(1)
  const page = { pageTokens: tokens, pageBytes: bytes, pages: 1 }
  const names = {
    NHD: '[row][unit][element]',
    HND: '[unit][row][element]',
    HDN: '[unit][element][row]',
  }
  const [cell, left, high] = [42, 16, 96]
  const strips = Object.entries(names).flatMap(([order, name], i) => {
    const [from, to] = [cacheOf(rank, { ...page, order }), cacheOf(rank, page)]
    const whole = { component: 'kv', prompt: { tokens, prefix: 0 }, first: 0 }
    const { plan } = new Pairing(shape, from, to).plan([
      { ...whole, source: Int32Array.of(0), destination: Int32Array.of(0) },
    ])
    const label = new Map()
    for (const { source, destination } of copiedBytes(plan)) {
      label.set(source, {
        token: Math.floor(destination / (units * elements)),
        unit: Math.floor(destination / elements) % units,
        element: destination % elements,
      })
    }
    const y = 16 + i * high
    return [
      words({ x: left, y: y + 12, text: `${order}  ${name}`, weight: 'bold' }),
      ...upTo(bytes).flatMap((byte) => {
        const { token, unit, element } = label.get(byte)
        const x = left + byte * cell
        const fill = colours[unit * 4 + token]
        const lines = [`t${token}`, `u${unit} e${element}`]
        return [
          box({ x, y: y + 20, width: cell, height: 38, fill, lines }),
          words({
            x: x + cell / 2,
            y: y + 72,
            text: `${byte}`,
            anchor: 'middle',
            colour: '#64748b',
          }),
        ]
      }),
    ]
  })
  const size = { width: 2 * left + bytes * cell, height: 16 + 3 * high }
  const title = 'A page of 4 tokens, 2 units and 3 elements of one byte, in the three orders'
  return picture(size, title, strips)
}

/** Pairs of bytes that a plan of one page copies. */
function copiedBytes({ lanes }) {
  const pairs = []
  for (let at = 0; at < lanes.length; at += 10) {
    const [, , from, to, , , length, runs, fromStride, toStride] = lanes.subarray(at, at + 10)
    for (const run of upTo(runs)) {
      for (const byte of upTo(length)) {
        pairs.push({
          source: from + run * fromStride + byte,
          destination: to + run * toStride + byte,
        })
      }
    }
  }
  return pairs
}

/** Layers downwards, units across. */
const byUnits = (shape) => {
  const tensors = shape.components[0].tensors
  return {
    rows: tensors.map(({ layer }) => `layer ${layer}`),
    columns: upTo(tensors[0].units),
    has: (rank, row, column) => {
      const units = heldUnits(rank, tensors[row])
      return units !== undefined && column >= units[0] && column < units[1]
    },
    sends: (from, to, row, column) => {
      const units = electedUnits(from, to, shape.components[0], tensors[row])
      return units !== undefined && column >= units[0] && column < units[1]
    },
  }
}

/** One row; tokens across, a page each. */
const byTokens = (shape, { tokens, pageTokens }) => {
  const [component] = shape.components
  const holds = (rank, page) =>
    countHeld(heldTokens(rank, tokens, pageTokens), page * pageTokens, (page + 1) * pageTokens) > 0
  return {
    rows: ['all layers'],
    columns: upTo(tokens / pageTokens),
    has: (rank, _row, page) => holds(rank, page),
    sends: (from, to, _row, page) =>
      holds(from, page) &&
      holds(to, page) &&
      electedUnits(from, to, component, component.tensors[0]) !== undefined,
  }
}

/** Who sends what: above what each prefill rank has, below what each decode rank gets, and from whom. */
function whoSends({ title, axes, column, prefill, decode, cell = 30 }) {
  const { rows, columns, has, sends } = axes
  const [left, gap, high] = [70, 28, 24]
  const names = { pp: 'PP', cp: 'CP', tp: 'TP' }
  const nameOf = (rank) =>
    Object.keys(names)
      .filter((axis) => rank[`${axis}Size`] > 1)
      .map((axis) => `${names[axis]}${rank[axis]}`)
      .join(' ') || 'one rank'
  const wide = Math.max(cell * columns.length, 64)
  const panel = (y, heading, ranks, show) => [
    words({ x: 12, y, text: heading, weight: 'bold' }),
    ...rows.map((row, r) => words({ x: 12, y: y + 46 + r * high, text: row, colour: '#64748b' })),
    ...ranks.flatMap((rank, i) => {
      const x = left + i * (wide + gap)
      return [
        words({ x, y: y + 22, text: nameOf(rank) }),
        ...rows.flatMap((_, r) =>
          columns.map((_, c) => {
            const { fill, text } = show(rank, i, r, c)
            const place = { x: x + (c * wide) / columns.length, y: y + 30 + r * high }
            const lines = text === undefined ? [] : [text]
            return box({ ...place, width: wide / columns.length, height: high, fill, lines })
          }),
        ),
      ]
    }),
  ]
  const empty = { fill: '#f8fafc' }
  const below = 24 + 48 + rows.length * high
  const items = [
    ...panel(24, 'prefill has', prefill, (rank, i, r, c) =>
      has(rank, r, c) ? { fill: colours[i], text: column(c) } : empty,
    ),
    ...panel(24 + below, 'decode gets, from', decode, (rank, _i, r, c) => {
      const from = prefill.flatMap((one, i) => (sends(one, rank, r, c) ? [i] : []))
      if (from.length > 1) throw new Error(`${title}: several ranks send the same.`)
      if (from.length === 0 && has(rank, r, c)) throw new Error(`${title}: nobody sends it.`)
      return from.length === 0 ? empty : { fill: colours[from[0]], text: nameOf(prefill[from[0]]) }
    }),
  ]
  const ranks = Math.max(prefill.length, decode.length)
  return picture({ width: left + ranks * (wide + gap), height: 2 * below + 8 }, title, items)
}

/** Pages of 64 tokens that become pages of 16: which pair of pages is in which group of which lanes. */
function pageSizes() {
  const [tokens, large, small] = [150, 64, 16]
  const source = [5, 2, 9]
  const destination = [3, 4, 8, 0, 7, 11, 12, 13, 1, 6]
  const shape = shapeWith({ units: 1 })
  const rank = makeRank(1)
  const { plan } = new Pairing(
    shape,
    cacheOf(rank, { pageTokens: large, pageBytes: large }),
    cacheOf(rank, { pageTokens: small, pageBytes: small }),
  ).plan([
    {
      ...{ component: 'kv', prompt: { tokens, prefix: 0 }, first: 0 },
      ...{ source: Int32Array.from(source), destination: Int32Array.from(destination) },
    },
  ])
  const [left, scale, high] = [110, 4, 34]
  const at = (token) => left + token * scale
  const items = [
    words({ x: 12, y: 46, text: 'prefill’s pages' }),
    words({ x: 12, y: 146, text: 'decode’s pages' }),
    ...source.map((page, i) =>
      box({
        ...{ x: at(i * large), y: 24, width: large * scale, height: high, fill: colours[i] },
        lines: [`page ${page}: tokens ${i * large} to ${i * large + large - 1}`],
      }),
    ),
  ]
  for (let block = 0; block < plan.blocks.length; block += 4) {
    const [first, end, lane] = plan.blocks.subarray(block, block + 3)
    const inPage = plan.lanes[lane * 10 + 2]
    for (let group = first; group < end; group++) {
      const [from, to, count] = plan.groups.subarray(group * 3, group * 3 + 3)
      for (const step of upTo(count)) {
        const i = source.indexOf(from + step)
        const x = at(i * large + inPage)
        items.push(
          line({
            from: { x: x + (small * scale) / 2, y: 24 + high },
            to: { x: x + (small * scale) / 2, y: 124 },
          }),
          box({
            ...{ x, y: 124, width: small * scale, height: high, fill: colours[i] },
            lines: [`page ${to + step}`, `lane ${lane}`],
          }),
        )
      }
    }
  }
  items.push(
    line({ from: { x: at(tokens), y: 12 }, to: { x: at(tokens), y: 172 } }),
    words({ x: at(tokens) - 4, y: 178, text: `the prompt ends: ${tokens} tokens`, anchor: 'end' }),
  )
  const title = 'A prompt of 150 tokens in pages of 64, which become pages of 16'
  return picture({ width: at(source.length * large) + 16, height: 190 }, title, items)
}

const heads = (count) => shapeWith({ layers: 1, units: count })

/** Files of docs/layouts/ by their paths. */
export const figures = {
  'docs/layouts/orders.svg': orders,
  'docs/layouts/tp4-tp2.svg': () =>
    whoSends({
      title: '8 KV heads from TP 4 to TP 2',
      axes: byUnits(heads(8)),
      column: (unit) => `${unit}`,
      prefill: ranksOf({ tpSize: 4 }, 1),
      decode: ranksOf({ tpSize: 2 }, 1),
      cell: 27,
    }),
  'docs/layouts/mla-tp8-tp4.svg': () =>
    whoSends({
      title: 'The latent of MLA, which every rank has, from TP 8 to TP 4',
      axes: byUnits(shapeWith({ layers: 4, units: 1 })),
      column: () => 'latent',
      prefill: ranksOf({ tpSize: 8 }, 4),
      decode: ranksOf({ tpSize: 4 }, 4),
    }),
  'docs/layouts/pp2-tp2.svg': () =>
    whoSends({
      title: '4 layers with 4 KV heads from PP 2 with TP 2 to TP 2',
      axes: byUnits(shapeWith({ layers: 4, units: 4 })),
      column: (unit) => `${unit}`,
      prefill: ranksOf({ tpSize: 2, ppSize: 2 }, 4),
      decode: ranksOf({ tpSize: 2 }, 4),
      cell: 58,
    }),
  'docs/layouts/cp2.svg': () =>
    whoSends({
      title: '5 pages of tokens from CP 2 in runs to TP 1',
      axes: byTokens(heads(1), { tokens: 80, pageTokens: 16 }),
      column: (page) => `${page * 16}…`,
      prefill: ranksOf({ cpSize: 2, context: 'contiguous' }, 1),
      decode: ranksOf({}, 1),
      cell: 44,
    }),
  'docs/layouts/pages-64-16.svg': pageSizes,
}

/** What models of @kvx/bench keep, a row for each component: all in BF16, two of them in FP8 too. */
function modelTable() {
  const rows = modelNames.flatMap((name) => {
    const index = name.startsWith('deepseek')
    const inFp8 = index || name === 'llama-3.1-70b'
    return [
      ...componentRows(`${name}, BF16`, shapeOf(name, { index })),
      ...(inFp8 ? componentRows(`${name}, FP8`, shapeOf(name, { index, dtype: 'fp8' })) : []),
    ]
  })
  return table(['model', 'component', 'layers', 'parts of a layer', 'bytes'], rows)
}

function componentRows(name, { components }) {
  return components.map(({ name: component, addressed, window, tensors }) => {
    const layers = new Set(tensors.map(({ layer }) => layer)).size
    const parts = tensors.filter(({ layer }) => layer === tensors[0].layer)
    const bytes = tensors.reduce((sum, { units, unitBytes, tokensPerRow = 1, rows = 1 }) => {
      return sum + (units * unitBytes * rows) / tokensPerRow
    }, 0)
    return [
      name,
      code(component) + (window === undefined ? '' : `, the last ${window} tokens`),
      `${layers}`,
      parts.map(describePart).join('; '),
      `${number(bytes)} a ${addressed === 'tokens' ? 'token' : 'request'}`,
    ]
  })
}

function describePart({ part, units, unitBytes, rows = 1, tokensPerRow = 1 }) {
  const times = rows > 1 ? `${rows} × ` : ''
  const tokens = tokensPerRow > 1 ? `, for ${tokensPerRow} tokens` : ''
  return `${code(part)} ${times}${units} × ${number(unitBytes)}${tokens}`
}

/** The numbers of one lane, of TP 4 to TP 2. */
function laneTable() {
  const shape = shapeWith({ units: 8, unitBytes: 256, elementBytes: 2 })
  const side = (tpSize, tp) =>
    cacheOf(makeRank(1, { tp, tpSize }), { pageTokens: 16, pageBytes: (8 / tpSize) * 256 * 16 })
  const { lanes } = new Pairing(shape, side(4, 1), side(2, 0))
  const names = [
    ...['region of prefill', 'region of decode', 'first byte at prefill', 'first byte at decode'],
    ...['bytes from page to page at prefill', 'bytes from page to page at decode'],
    ...['bytes of a run', 'runs of a page'],
    ...['bytes from run to run at prefill', 'bytes from run to run at decode'],
  ]
  return table(
    ['number of a lane', 'here'],
    names.map((name, i) => [name, number(lanes[i])]),
  )
}

const example = () =>
  `\`\`\`js\n${readFileSync(join(root, 'examples/which-bytes.mjs'), 'utf8')}\`\`\``

export const layoutTables = { 'model-shapes': modelTable, lane: laneTable, 'which-bytes': example }
