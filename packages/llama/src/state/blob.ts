/**
 * The state of one sequence as llama.cpp saves it to a file, version 3, little-endian, with flash
 * attention off:
 *
 *   u32 magic | u32 version | u32 n | n × u32 token
 *   u32 streams
 *   per stream: u32 cells (0: nothing more of this stream), else
 *     cells × { i32 position, u32 1, i32 sequence }
 *     u32 V transposed (1) | u32 layers
 *     per layer K: i32 type | u64 row bytes | cells × row
 *     per layer V: i32 type | u32 element bytes | u32 elements per token | elements × cells × element
 *
 * A sequence has its cells in one stream, and here always one cell per token.
 */
import { KvxError } from '@kvx/contract'
import { elementBytes, keyRowBytes, valueRowBytes, type Geometry } from './geometry.ts'

const magic = 0x67677371
const version = 3
const f16 = 1
const perLayerHeader = 12
const perCell = 12

/** Which sequence of which context a state belongs to. */
export interface Place {
  /** Streams of the context: the number of its sequences. */
  readonly streams: number
  readonly stream: number
  readonly sequence: number
}

/** Offsets within the state of `n` tokens. */
export function stateShape(
  geometry: Geometry,
  n: number,
  place: Place,
): {
  readonly bytes: number
  /** Of the stream table. */
  readonly streams: number
  /** Of the first cell. */
  readonly cells: number
  /** Of K of layer 0, header included; each layer is `keyStep` long. */
  readonly keys: number
  readonly keyStep: number
  readonly values: number
  readonly valueStep: number
} {
  const streams = 12 + 4 * n
  const cells = streams + 4 + 4 * (place.stream + 1)
  const keys = cells + perCell * n + 8
  const keyStep = perLayerHeader + n * keyRowBytes(geometry)
  const values = keys + geometry.layers * keyStep
  const valueStep = perLayerHeader + n * valueRowBytes(geometry)
  const bytes = values + geometry.layers * valueStep + 4 * (place.streams - place.stream - 1)
  return { bytes, streams, cells, keys, keyStep, values, valueStep }
}

/** The fields of a state in order: what both writing and checking walk through. */
function* fields(
  geometry: Geometry,
  tokens: ArrayLike<number>,
  place: Place,
): Generator<{ offset: number; value: number; what: string }> {
  const n = tokens.length
  const shape = stateShape(geometry, n, place)
  yield { offset: 0, value: magic, what: 'the magic number' }
  yield { offset: 4, value: version, what: 'the version' }
  yield { offset: 8, value: n, what: 'the number of tokens' }
  for (let i = 0; i < n; i++) {
    yield { offset: 12 + 4 * i, value: tokens[i] ?? 0, what: `token ${String(i)}` }
  }
  yield { offset: shape.streams, value: place.streams, what: 'the number of streams' }
  for (let stream = 0; stream < place.streams; stream++) {
    const behind = stream > place.stream
    yield {
      offset: behind ? shape.bytes - 4 * (place.streams - stream) : shape.streams + 4 + 4 * stream,
      value: stream === place.stream ? n : 0,
      what: `the number of cells of stream ${String(stream)}`,
    }
  }
  for (let i = 0; i < n; i++) {
    const cell = shape.cells + perCell * i
    yield { offset: cell, value: i, what: `the position of cell ${String(i)}` }
    yield { offset: cell + 4, value: 1, what: `the number of sequences of cell ${String(i)}` }
    yield { offset: cell + 8, value: place.sequence, what: `the sequence of cell ${String(i)}` }
  }
  const after = shape.keys - 8
  yield { offset: after, value: 1, what: 'the order of V (flash attention must be off)' }
  yield { offset: after + 4, value: geometry.layers, what: 'the number of layers' }
  for (let layer = 0; layer < geometry.layers; layer++) {
    const key = shape.keys + layer * shape.keyStep
    const which = `of layer ${String(layer)}`
    yield { offset: key, value: f16, what: `the type of K ${which}` }
    yield { offset: key + 4, value: keyRowBytes(geometry), what: `the row size of K ${which}` }
    yield { offset: key + 8, value: 0, what: `the row size of K ${which}` }
  }
  for (let layer = 0; layer < geometry.layers; layer++) {
    const value = shape.values + layer * shape.valueStep
    const which = `of layer ${String(layer)}`
    const width = geometry.heads * geometry.valueDim
    yield { offset: value, value: f16, what: `the type of V ${which}` }
    yield { offset: value + 4, value: elementBytes, what: `the element size of V ${which}` }
    yield { offset: value + 8, value: width, what: `the width of V ${which}` }
  }
}

/**
 * A state of `tokens` for the given place, complete but for the bytes of K and V, which `gather` puts
 * in (see `stateTensors`).
 */
export function buildState(geometry: Geometry, tokens: ArrayLike<number>, place: Place): Buffer {
  const blob = Buffer.allocUnsafe(stateShape(geometry, tokens.length, place).bytes)
  for (const { offset, value } of fields(geometry, tokens, place)) blob.writeUInt32LE(value, offset)
  return blob
}

/**
 * Refuses a state that is not exactly that of `tokens` at `place` in a model of this geometry: llama.cpp
 * trusts what it reads, and a wrong state may end the process.
 *
 * @throws KvxError `ERR_KVX_MODEL_STATE`
 */
export function checkState(
  blob: Uint8Array,
  geometry: Geometry,
  tokens: ArrayLike<number>,
  place: Place,
): void {
  const { bytes } = stateShape(geometry, tokens.length, place)
  if (blob.length !== bytes) {
    throw wrong(
      `it has ${String(blob.length)} bytes instead of ${String(bytes)} for ${String(tokens.length)} tokens`,
    )
  }
  const view = new DataView(blob.buffer, blob.byteOffset, blob.byteLength)
  for (const { offset, value, what } of fields(geometry, tokens, place)) {
    const found = view.getUint32(offset, true)
    if (found !== value) throw wrong(`${what} is ${String(found)} instead of ${String(value)}`)
  }
}

function wrong(why: string): KvxError {
  return new KvxError(
    'ERR_KVX_MODEL_STATE',
    `The saved state of a sequence does not fit the model: ${why}. It was not loaded.`,
  )
}
