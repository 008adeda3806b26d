/** Values as they should not be: at limits and beyond them, of other types, nested too deep. */
import type { FrameRandom } from '../random.ts'

const numbers = [
  0,
  1,
  2,
  3,
  4,
  7,
  8,
  15,
  16,
  17,
  63,
  64,
  65,
  255,
  256,
  4095,
  4096,
  65_535,
  65_536,
  2 ** 31 - 1,
  2 ** 31,
  2 ** 32 - 1,
  2 ** 32,
  2 ** 53 - 2,
  2 ** 53 - 1,
  2 ** 53,
  1e300,
  -1,
  -2,
  -(2 ** 31),
  -(2 ** 53),
  0.5,
  1.5,
  -0.5,
  NaN,
  Infinity,
  -Infinity,
]
const bigints = [0n, 1n, 2n ** 32n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 1n, -1n, -(2n ** 64n)]
export const texts = [
  '',
  'a',
  'kv',
  'mamba',
  'k',
  'v',
  'latent',
  'state',
  'tokens',
  'request',
  'parked',
  'paired',
  'complete',
  'failed',
  'over',
  '__proto__',
  'constructor',
  'prototype',
  'toString',
  'hasOwnProperty',
  'length',
  'ERR_KVX_STALE',
  'ERR_KVX_ABORTED',
  'ERR_KVX_INTERNAL',
  'ERR_KVX_NONE',
  'transfer',
  '0'.repeat(32),
  'f'.repeat(32),
  'F'.repeat(32),
  'g'.repeat(32),
  '0'.repeat(31),
  '0'.repeat(33),
  'x'.repeat(200),
  'x'.repeat(201),
  'x'.repeat(2_000),
  'x'.repeat(2_001),
  '\u0000',
  '\ud800',
  '😀'.repeat(100),
  '../../etc/passwd',
  'tcp://127.0.0.1:1',
  'tcp://[::1]:0',
]
const lengths = [0, 1, 3, 4, 5, 8, 12, 15, 16, 17, 60, 64, 68, 1_000]
/** Those at the limits are costly, and rare. */
const longLengths = [4_096, 4_097, 16_384, 16_385, 65_536, 65_537, 200_000]
const someLength = (random: FrameRandom) => random.one(random.chance(0.03) ? longLengths : lengths)

/** A value of the same type that may just fit, or just not. */
export function near(random: FrameRandom, value: unknown): unknown {
  switch (typeof value) {
    case 'number':
      return random.chance(0.5) ? value + random.one([-1, 1, -4, 4, 0.5]) : random.one(numbers)
    case 'bigint':
      return random.chance(0.5) ? value + random.one([-1n, 1n]) : random.one(bigints)
    case 'string':
      return random.chance(0.5)
        ? random.one(texts)
        : value.slice(0, -1) + random.one(['', '0', 'a', 'é'])
    case 'boolean':
      return !value
    default:
  }
  if (value instanceof Uint8Array) {
    if (value.length === 0 || random.chance(0.3)) return random.bytes(someLength(random))
    const copy = value.slice()
    if (random.chance(0.5)) copy[random.below(copy.length)] = random.below(256)
    // One index twice.
    else if (copy.length >= 8) copy.copyWithin(4, 0, 4)
    return random.chance(0.8) ? copy : copy.subarray(0, random.below(copy.length))
  }
  return anything(random)
}

export function anything(random: FrameRandom): unknown {
  switch (random.below(9)) {
    case 0:
      return random.one(numbers)
    case 1:
      return random.one(bigints)
    case 2:
      return random.one(texts)
    case 3:
      return random.bytes(someLength(random))
    case 4:
      return random.chance(0.5)
    case 5:
      return null
    case 6:
      return { name: random.one(texts), [random.one(texts)]: random.one(numbers) }
    case 7:
      return new Array(random.one([0, 1, 2, 100])).fill(random.one(numbers))
    default:
      return nested(random.one([1, 10, 14, 15, 16, 17, 40]))
  }
}

function nested(depth: number): unknown {
  let value: unknown = 0
  for (let i = 0; i < depth; i++) value = [value]
  return value
}
