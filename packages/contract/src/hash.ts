/**
 * The hash of `DigestJob`, in numbers of 32 bits, since numbers of 64 are slow in JavaScript. A number of 64 bits is two
 * entries of a `Uint32Array`, the lower half first.
 */

/** Bytes that are hashed at once; a longer cell is several blocks. */
export const blockBytes = 1_024

/** The lower halves and the upper halves of the factors of row, unit, block and bytes. */
const rowFactor = [0x7f4a7c15, 0x9e3779b9] as const
const unitFactor = [0x27d4eb4f, 0xc2b2ae3d] as const
const blockFactor = [0x9e3779f9, 0x165667b1] as const
const bytesFactor = [0x165667c5, 0x27d4eb2f] as const
const mixFactor = [0x6659fd93, 0xd6e8feb8] as const

/** Which cell a block is part of, as numbered in the undivided cache, and which of its blocks it is. */
export interface BlockName {
  keyLow: number
  keyHigh: number
  row: number
  unit: number
  block: number
}

/** Room for what is being computed: low, high and seed of one block, and z. */
const low = 0
const high = 2
const seed = 4
const last = 6
const work = new Uint32Array(8)

/** k[j] of all words of a block. */
const wordKeys = makeWordKeys()

/**
 * Adds the hash of one block to a digest.
 *
 * @param words its bytes, with zeros up to a multiple of 16 at least
 * @param bytes how many are its own
 * @param digest four entries from `at` on
 */
export function addBlock(
  digest: Uint32Array,
  at: number,
  name: Readonly<BlockName>,
  words: DataView,
  bytes: number,
): void {
  work.fill(0)
  for (let byte = 0; byte < bytes; byte += 16) addProduct(words, byte)
  add(work, seed, name.keyLow, name.keyHigh)
  addMultiple(seed, rowFactor, name.row)
  addMultiple(seed, unitFactor, name.unit)
  addMultiple(seed, blockFactor, name.block)
  addMultiple(seed, bytesFactor, bytes)
  mix(seed)
  add(work, low, work[seed]!, work[seed + 1]!)
  mix(low)
  add(work, high, work[low]!, work[low + 1]!)
  mix(high)
  work[last] = work[low]! ^ work[high]!
  work[last + 1] = work[low + 1]! ^ work[high + 1]!
  mix(last)
  add(digest, at, work[high]!, work[high + 1]!)
  add(digest, at + 2, work[last], work[last + 1]!)
}

/** Adds the halves of the product of two words, each with its key added, to `low` and `high`. */
function addProduct(words: DataView, byte: number): void {
  const key = byte / 4
  const a = words.getUint32(byte, true) + wordKeys[key]!
  const a0 = a >>> 0
  const a1 = (words.getUint32(byte + 4, true) + wordKeys[key + 1]! + (a > a0 ? 1 : 0)) >>> 0
  const b = words.getUint32(byte + 8, true) + wordKeys[key + 2]!
  const b0 = b >>> 0
  const b1 = (words.getUint32(byte + 12, true) + wordKeys[key + 3]! + (b > b0 ? 1 : 0)) >>> 0
  const second = upper(a0, b0) + lower(a0, b1) + lower(a1, b0)
  const third =
    upper(a0, b1) + upper(a1, b0) + lower(a1, b1) + (second - (second >>> 0)) / 0x1_0000_0000
  const fourth = upper(a1, b1) + (third - (third >>> 0)) / 0x1_0000_0000
  add(work, low, lower(a0, b0), second >>> 0)
  add(work, high, third >>> 0, fourth)
}

/** The lower and the upper half of the product of two numbers of 32 bits. */
function lower(a: number, b: number): number {
  return Math.imul(a, b) >>> 0
}

function upper(a: number, b: number): number {
  return Math.floor(((a >>> 16) * b + Math.floor(((a & 0xffff) * b) / 0x1_0000)) / 0x1_0000)
}

function add(to: Uint32Array, at: number, lowHalf: number, highHalf: number): void {
  const sum = to[at]! + lowHalf
  to[at] = sum
  to[at + 1] = to[at + 1]! + highHalf + (sum > 0xffff_ffff ? 1 : 0)
}

/** @param count from 0 to 2 ** 53 */
function addMultiple(at: number, [f0, f1]: readonly [number, number], count: number): void {
  const c0 = count >>> 0
  const c1 = (count - c0) / 0x1_0000_0000
  add(work, at, lower(f0, c0), upper(f0, c0) + lower(f1, c0) + lower(f0, c1))
}

function mix(at: number): void {
  const [m0, m1] = mixFactor
  for (let round = 0; round < 2; round++) {
    const x1 = work[at + 1]!
    const x0 = (work[at]! ^ x1) >>> 0
    work[at] = lower(x0, m0)
    work[at + 1] = upper(x0, m0) + lower(x0, m1) + lower(x1, m0)
  }
  work[at] = work[at]! ^ work[at + 1]!
}

function makeWordKeys(): Uint32Array {
  const keys = new Uint32Array(blockBytes / 4)
  for (let word = 0; word < blockBytes / 8; word++) {
    work.fill(0)
    addMultiple(seed, rowFactor, word + 1)
    mix(seed)
    keys.set(work.subarray(seed, seed + 2), 2 * word)
  }
  return keys
}
