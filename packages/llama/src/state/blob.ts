/**
 * The state of one sequence as llama.cpp saves it to a file, version 3, little-endian, with flash
 * attention off:
 *
 *   u32 magic | u32 version | u32 n | n × u32 token
 *   the caches of the model, one behind the other
 *
 * Attention (with a sliding window in some layers: two of these, those without it first):
 *   u32 streams
 *   per stream: u32 cells (0: nothing more of this stream), else
 *     cells × { i32 position, u32 1, i32 sequence }
 *     u32 V transposed (1) | u32 layers
 *     per layer K: i32 type | u64 row bytes | cells × row
 *     per layer V, unless it is a part of K: i32 type | u32 element bytes | u32 elements per token | elements × cells × element
 *
 * Recurrent:
 *   u32 1 | i32 last position | u32 0 | u32 0 | u32 layers of the model
 *   per layer that has one, the convolution: i32 type | u64 row bytes | row
 *   per layer that has one, the scan: i32 type | u64 row bytes | row
 *
 * A sequence has its cells in one stream, by ascending position. Of a sliding window llama.cpp saves the cells that are
 * in it. They are given back with cells before them, of zeros, that no token looks at: each cell has then the number of
 * its position, as in the context that computed it, and sums are rounded alike.
 */
import { KvxError } from '@kvx/contract'
import {
  elementBytes,
  firstNeeded,
  hasWindow,
  keyRowBytes,
  stateElementBytes,
  valueRowBytes,
  type AttentionCache,
  type Geometry,
  type RecurrentCache,
  type StatePart,
} from './geometry.ts'

const magic = 0x67677371
const version = 3
/** Types of ggml. */
const [f32, f16, q8_0] = [0, 1, 8]

/** Which sequence of which context a state belongs to. */
export interface Place {
  /** Streams of the context: the number of its sequences. */
  readonly streams: number
  readonly stream: number
  readonly sequence: number
}

/** As llama.cpp saves it, or as it is given back. */
export type Form = 'saved' | 'loaded'

/** Where a tensor of the cache lies in a state. */
export interface Rows {
  readonly component: string
  readonly layer: number
  readonly part: string
  /** Offset of the first byte. */
  readonly offset: number
  /** Tokens whose rows lie there, half-open; absent for what is kept by request. */
  readonly tokens?: readonly [first: number, end: number]
  /** `runs` stretches of `rowBytes` per token, `stride` apart. */
  readonly rowBytes: number
  readonly runs: number
  readonly stride: number
}

/** Numbers of 32 bits that a state has at some place. */
interface Numbers {
  readonly offset: number
  readonly values: ArrayLike<number>
  /** Names one of them. */
  readonly what: (index: number) => string
}

export interface Described {
  readonly tokens: number
  readonly bytes: number
  readonly numbers: readonly Numbers[]
  readonly rows: readonly Rows[]
}

/** What the state of `tokens` consists of. */
export function describeState(
  geometry: Geometry,
  tokens: ArrayLike<number>,
  place: Place,
  form: Form,
): Described {
  const n = tokens.length
  const written = new Description(n)
  written.fields([magic, version, n], ['the magic number', 'the version', 'the number of tokens'])
  written.list(tokens, (i) => `token ${String(i)}`)
  for (const cache of geometry.caches) {
    if (cache.kind === 'attention') describeAttention(written, cache, n, place, form)
    else describeRecurrent(written, cache, n, geometry.layers)
  }
  return written
}

function describeAttention(
  written: Description,
  cache: AttentionCache,
  n: number,
  place: Place,
  form: Form,
): void {
  const { component, layers } = cache
  const first = form === 'saved' ? firstNeeded(cache, n) : 0
  written.fields([place.streams], [`the number of streams of ${component}`])
  for (let stream = 0; stream < place.streams; stream++) {
    const isOurs = stream === place.stream
    const what = `the number of cells of stream ${String(stream)} of ${component}`
    written.fields([isOurs ? n - first : 0], [what])
    if (isOurs) describeCells(written, first, n, place)
    if (isOurs) describeRows(written, cache, layers, [first, n])
  }
}

function describeCells(written: Description, first: number, n: number, place: Place): void {
  const cells = new Uint32Array(3 * (n - first))
  for (let i = 0; i < n - first; i++) cells.set([first + i, 1, place.sequence], 3 * i)
  const fields = ['the position', 'the number of sequences', 'the sequence']
  written.list(cells, (i) => `${fields[i % 3] ?? ''} of cell ${String(Math.floor(i / 3))}`)
}

function describeRows(
  written: Description,
  cache: AttentionCache,
  layers: readonly number[],
  tokens: readonly [number, number],
): void {
  const { component, heads, valueDim } = cache
  const cells = tokens[1] - tokens[0]
  written.fields(
    [1, layers.length],
    ['the order of V (flash attention must be off)', `the number of layers of ${component}`],
  )
  for (const layer of layers) {
    const which = `of K of layer ${String(layer)}`
    const rowBytes = keyRowBytes(cache)
    written.row(cache.keyDtype === 'f16' ? f16 : q8_0, rowBytes, which)
    const part = valueDim === 0 ? 'latent' : 'k'
    written.area({ component, layer, part, tokens, rowBytes, runs: 1, stride: 0 }, cells * rowBytes)
  }
  if (valueDim === 0) return
  for (const layer of layers) {
    const which = `of V of layer ${String(layer)}`
    const runs = heads * valueDim
    written.fields(
      [f16, elementBytes, runs],
      [`the type ${which}`, `the element size ${which}`, `the width ${which}`],
    )
    const stride = cells * elementBytes
    const rows = { component, layer, part: 'v', tokens, rowBytes: elementBytes, runs, stride }
    written.area(rows, cells * valueRowBytes(cache))
  }
}

function describeRecurrent(
  written: Description,
  { component, layers, convolution, scan }: RecurrentCache,
  n: number,
  modelLayers: number,
): void {
  const what = ['the number of cells', 'the position', 'the number of sequences', 'the order']
  written.fields([1, n - 1, 0, 0, modelLayers], [...what, 'the number of layers'].map(of))
  for (const [parts, kind] of [
    [convolution, 'convolution'],
    [scan, 'scan'],
  ] as const) {
    for (const layer of layers) {
      const bytes = parts.reduce((sum, part) => sum + statePartBytes(part), 0)
      written.row(f32, bytes, `of the ${kind} of layer ${String(layer)}`)
      for (const part of parts) {
        const rowBytes = statePartBytes(part)
        written.area({ component, layer, part: part.part, rowBytes, runs: 1, stride: 0 }, rowBytes)
      }
    }
  }
  function of(field: string): string {
    return `${field} of ${component}`
  }
}

export function statePartBytes({ units, unitElements }: StatePart): number {
  return units * unitElements * stateElementBytes
}

/** Takes down what lies one behind the other. */
class Description implements Described {
  readonly tokens: number
  bytes = 0
  readonly numbers: Numbers[] = []
  readonly rows: Rows[] = []

  constructor(tokens: number) {
    this.tokens = tokens
  }

  fields(values: readonly number[], names: readonly string[]): void {
    this.list(values, (i) => names[i] ?? '')
  }

  list(values: ArrayLike<number>, what: Numbers['what']): void {
    this.numbers.push({ offset: this.bytes, values, what })
    this.bytes += 4 * values.length
  }

  /** What is said of a row before it. */
  row(type: number, rowBytes: number, which: string): void {
    const size = `the row size ${which}`
    this.fields([type, rowBytes, 0], [`the type ${which}`, size, size])
  }

  area(rows: Omit<Rows, 'offset'>, bytes: number): void {
    this.rows.push({ ...rows, offset: this.bytes })
    this.bytes += bytes
  }
}

/** Makes a state to be given back, but for the cells that are needed, which `loadRows` puts in; those before a window are zeros. */
export function buildState(blob: Buffer, geometry: Geometry, { numbers }: Described): void {
  if (hasWindow(geometry)) blob.fill(0)
  for (const { offset, values } of numbers) {
    for (let i = 0; i < values.length; i++) blob.writeUInt32LE(values[i] ?? 0, offset + 4 * i)
  }
}

/**
 * Refuses a state that is not exactly as described: llama.cpp trusts what it reads, and a wrong state may end the process.
 *
 * @throws KvxError `ERR_KVX_MODEL_STATE`
 */
export function checkState(blob: Uint8Array, { tokens, bytes, numbers }: Described): void {
  if (blob.length !== bytes) {
    throw wrong(
      `it has ${String(blob.length)} bytes instead of ${String(bytes)} for ${String(tokens)} tokens`,
    )
  }
  const view = new DataView(blob.buffer, blob.byteOffset, blob.byteLength)
  for (const { offset, values, what } of numbers) {
    for (let i = 0; i < values.length; i++) {
      const [found, value] = [view.getUint32(offset + 4 * i, true), values[i] ?? 0]
      if (found === value) continue
      throw wrong(`${what(i)} is ${String(found)} instead of ${String(value)}`)
    }
  }
}

function wrong(why: string): KvxError {
  return new KvxError(
    'ERR_KVX_MODEL_STATE',
    `The saved state of a sequence does not fit the model: ${why}. It was not loaded.`,
  )
}
