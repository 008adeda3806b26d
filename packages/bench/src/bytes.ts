/** Fills the cache of a request with bytes that say where they belong, and verifies them where they have arrived. */
import { tensorName, type Range } from '@kvx/core/bytes'
import { rowKey, step, tensorKey, wordAt } from './pattern.ts'
import { heldTensors, type HeldTensor, type RequestCache } from './rows.ts'

/** Which bytes: another seed, other bytes. */
export interface Content {
  /** An integer of 32 bits, best one per request. */
  readonly seed: number
  /** Of the whole prompt. */
  readonly tokens: number
}

/** A byte that is not what it should be, and which one it is. */
export interface Mismatch {
  readonly component: string
  readonly layer: number
  readonly part: string
  readonly unit: number
  /** Addressed by tokens: the first token of the row. Addressed by request: the row, counted over all slots. */
  readonly row: number
  /** Within the unit. */
  readonly byte: number
  readonly expected: number
  readonly found: number
  /** Where it lies. */
  readonly region: number
  readonly offset: number
}

/**
 * What a prefill rank would compute of some tokens, of some layers, and the state of the request.
 *
 * @param part half-open ranges of tokens and of layers; default: all
 * @returns how many bytes it has written
 * @throws RangeError when a page that is needed is missing
 */
export function fill(
  cache: RequestCache,
  { seed, tokens }: Content,
  part: { readonly tokens?: Range; readonly layers?: Range } = {},
): number {
  const { layers = [0, cache.shape.layers], tokens: range = [0, tokens] } = part
  const held = heldTensors(cache, tokens, { layers, wanted: () => range })
  return held.reduce((bytes, tensor) => bytes + overRows(tensor, cache, seed, fillRow), 0)
}

/**
 * Whether a decode rank has received what it needs: of every component what comes after its prefix, and lies in its
 * window.
 *
 * @returns how many bytes it has looked at, and the first one that is wrong
 * @throws RangeError when a page that is needed is missing
 */
export function verify(
  cache: RequestCache,
  { seed, tokens }: Content,
  { prefix = 0 }: { readonly prefix?: number } = {},
): { bytes: number; mismatch?: Mismatch } {
  const held = heldTensors(cache, tokens, {
    layers: [0, cache.shape.layers],
    wanted: ({ window = tokens }) => [Math.max(prefix, tokens - window), tokens],
  })
  let bytes = 0
  for (const tensor of held) {
    let mismatch: Mismatch | undefined
    bytes += overRows(tensor, cache, seed, (row, key, number, unit) => {
      const byte = firstWrong(row, key)
      if (byte === undefined) return true
      mismatch = mismatchAt(tensor, row, { key, number, unit, byte })
      return false
    })
    if (mismatch) return { bytes, mismatch }
  }
  return { bytes }
}

/** One line that names the byte. */
export function describeMismatch(mismatch: Mismatch): string {
  const { component, unit, row, byte, expected, found, region, offset } = mismatch
  const hex = (value: number) => `0x${value.toString(16).padStart(2, '0')}`
  return `${tensorName(component, mismatch)}, unit ${String(unit)}, row ${String(row)}, byte ${String(byte)} must be ${hex(expected)}, got ${hex(found)} (byte ${String(offset)} of region ${String(region)})`
}

/** One row of one unit, wherever its elements lie. */
interface RowBytes {
  readonly memory: Uint8Array
  /** The same memory, when rows are words side by side. */
  readonly words: Int32Array | undefined
  /** Byte of the memory at which the row begins. */
  at: number
  readonly bytes: number
  readonly elementBytes: number
  readonly elementStride: number
}

/** Goes on while `visit` answers true; how many bytes it has visited. */
function overRows(
  { component, tensor, units, place, rows, stride }: HeldTensor,
  { memory }: RequestCache,
  seed: number,
  visit: (row: RowBytes, key: number, number: number, unit: number) => boolean,
): number {
  const region = memory[place.region]
  if (!region) throw new RangeError(`There is no region ${String(place.region)}.`)
  const { unitBytes, elementBytes = unitBytes } = tensor
  const steps = [region.byteOffset, place.base, place.pageBytes, unitBytes, stride.row, stride.unit]
  const inWords = stride.element === elementBytes && steps.every((bytes) => bytes % 4 === 0)
  const row: RowBytes = {
    memory: region,
    words: inWords
      ? new Int32Array(region.buffer, region.byteOffset, Math.floor(region.byteLength / 4))
      : undefined,
    ...{ at: 0, bytes: unitBytes, elementBytes, elementStride: stride.element },
  }
  const key = tensorKey(seed, component.name, tensor.layer, tensor.part)
  let bytes = 0
  for (let i = 0; i < rows.number.length; i++) {
    const page = rows.page[i]!
    if (page < 0) {
      throw new RangeError(
        `${tensorName(component.name, tensor)} needs row ${String(rows.number[i])}, and the rank has no page for it.`,
      )
    }
    const start = place.base + page * place.pageBytes + rows.inPage[i]! * stride.row
    for (let unit = units[0]; unit < units[1]; unit++) {
      row.at = start + (unit - units[0]) * stride.unit
      bytes += unitBytes
      if (!visit(row, rowKey(key, unit, rows.number[i]!), rows.number[i]!, unit)) return bytes
    }
  }
  return bytes
}

/** Regions may be larger than what shifts take. */
const wordOf = (byte: number): number => Math.floor(byte / 4)

function fillRow(row: RowBytes, key: number): boolean {
  const { words, memory, bytes, at } = row
  let next = key
  if (words) {
    const end = wordOf(at + bytes)
    for (let word = wordOf(at); word < end; word++) {
      words[word] = wordAt(next)
      next = (next + step) | 0
    }
    return true
  }
  for (let byte = 0; byte < bytes; byte++) memory[placeOfByte(row, byte)] = byteOf(key, byte)
  return true
}

/** The first byte of a row that is wrong. */
function firstWrong(row: RowBytes, key: number): number | undefined {
  const { words, memory, bytes, at } = row
  let from = 0
  if (words) {
    const end = wordOf(at + bytes)
    let next = key
    let word = wordOf(at)
    while (word < end && words[word] === wordAt(next)) {
      next = (next + step) | 0
      word++
    }
    if (word === end) return undefined
    from = word * 4 - at
  }
  for (let byte = from; byte < bytes; byte++) {
    if (memory[placeOfByte(row, byte)] !== byteOf(key, byte)) return byte
  }
  return undefined
}

function byteOf(key: number, byte: number): number {
  const word = wordAt((key + Math.imul(byte >> 2, step)) | 0)
  return (word >>> (8 * (byte & 3))) & 0xff
}

function placeOfByte({ at, elementBytes, elementStride }: RowBytes, byte: number): number {
  const element = Math.floor(byte / elementBytes)
  return at + element * elementStride + (byte - element * elementBytes)
}

function mismatchAt(
  { component, tensor, place }: HeldTensor,
  row: RowBytes,
  { key, number, unit, byte }: { key: number; number: number; unit: number; byte: number },
): Mismatch {
  const offset = placeOfByte(row, byte)
  return {
    ...{ component: component.name, layer: tensor.layer, part: tensor.part, unit, byte, offset },
    row: number * (tensor.tokensPerRow ?? 1),
    expected: byteOf(key, byte),
    found: row.memory[offset] ?? -1,
    region: place.region,
  }
}
