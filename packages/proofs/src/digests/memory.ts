/** Memory of ranks, filled with bytes of which nothing can be guessed, and the copies of a transfer between two of them. */
import type { Memory } from '@kvx/contract'
import type { Copy } from '../bytes/expand.ts'
import { addressOf, type Address, type Meaning, rubbish } from '../bytes/reference.ts'

export interface RankMemory {
  readonly regions: readonly Uint8Array[]
  /** The same, as engines are given it. */
  readonly memories: readonly Memory[]
}

/**
 * @param meanings of bytes that are not garbage: the same one is the same byte at every rank
 * @param seed of the garbage; another one at every rank
 */
export function fill(
  regionBytes: readonly number[],
  meanings: ReadonlyMap<Address, Meaning>,
  seed: number,
): RankMemory {
  const regions = regionBytes.map((bytes, region) =>
    Uint8Array.from({ length: bytes }, (_, byte) => {
      const meaning = meanings.get(addressOf(region, byte)) ?? rubbish
      return meaning === rubbish ? noise(byte, seed + region) : contentOf(meaning)
    }),
  )
  return { regions, memories: regions.map(memoryOf) }
}

function memoryOf(bytes: Uint8Array): Memory {
  return {
    ...{ address: 0n, bytes: bytes.length, kind: 'cpu', device: 0 },
    view: (offset, length) => bytes.subarray(offset, offset + length),
  }
}

export function contentOf(meaning: Meaning): number {
  return noise(meaning, 0)
}

function noise(number: number, seed: number): number {
  let x = Math.imul(number + 1, 0x9e37_79b1) ^ Math.imul(seed + 1, 0x85eb_ca77)
  x = Math.imul(x ^ (x >>> 15), 0x2c1b_3c6d)
  x = Math.imul(x ^ (x >>> 12), 0x297a_2d39)
  return (x ^ (x >>> 15)) & 0xff
}

export function apply(copies: readonly Copy[], source: RankMemory, destination: RankMemory): void {
  for (const copy of copies) {
    const from = source.regions[copy.sourceRegion]!
    const to = destination.regions[copy.destinationRegion]!
    to.set(from.subarray(copy.sourceByte, copy.sourceByte + copy.bytes), copy.destinationByte)
  }
}
