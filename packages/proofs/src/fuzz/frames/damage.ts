/** Encoded messages with damaged bytes. */
import type { FrameRandom } from '../random.ts'
import type { Template } from '../worlds/world.ts'
import { encode, encoded } from './encode.ts'
import { anything } from './values.ts'

/** Lengths that promise more than there is, and forms that a frame must not have. */
const headers = [
  'bf',
  '9f',
  '5f',
  '7f',
  'ff',
  'f7',
  'f8ff',
  'fb7ff8000000000000',
  'c0',
  'c11a5f5e1000',
  'd81b8266526567457870612b',
  'd9df57',
  '5a7fffffff',
  '5bffffffffffffffff',
  '7a7fffffff',
  '9a7fffffff',
  '9bffffffffffffffff',
  'ba7fffffff',
  'bbffffffffffffffff',
  '1bffffffffffffffff',
  '3bffffffffffffffff',
  '695f5f70726f746f5f5f',
  '1c',
  '80',
  'a0',
  '40',
  '60',
].map((hex) => Buffer.from(hex, 'hex'))

export function damage(
  random: FrameRandom,
  frame: Uint8Array,
  templates: readonly Template[],
): Uint8Array {
  let bytes = frame
  for (let edits = 1 + random.below(3); edits > 0; edits--) {
    const at = random.below(bytes.length + 1)
    switch (random.below(9)) {
      case 0:
        bytes = bytes.subarray(0, at)
        break
      case 1: {
        const copy = bytes.slice()
        if (at < copy.length) copy[at]! ^= 1 << random.below(8)
        bytes = copy
        break
      }
      case 2: {
        const copy = bytes.slice()
        if (at < copy.length) copy[at] = random.below(256)
        bytes = copy
        break
      }
      case 3:
        bytes = join(bytes.subarray(0, at), random.one(headers), bytes.subarray(at))
        break
      case 4:
        bytes = join(
          bytes.subarray(0, at),
          random.one(headers),
          bytes.subarray(at + random.below(12)),
        )
        break
      case 5:
        bytes = join(bytes.subarray(0, at), bytes.subarray(at + 1 + random.below(8)))
        break
      case 6:
        bytes = join(bytes, bytes.subarray(at))
        break
      case 7: {
        // The beginning of one message and the end of another.
        const other = encoded(random.one(templates))
        bytes = join(bytes.subarray(0, at), other.subarray(random.below(other.length)))
        break
      }
      default:
        bytes = repeated(random, bytes, templates)
    }
  }
  return bytes
}

/** A map with a field that it has already: the second value is another message's. */
function repeated(
  random: FrameRandom,
  bytes: Uint8Array,
  templates: readonly Template[],
): Uint8Array {
  const pairs = (bytes[0] ?? 0) - 0xa0
  if (pairs < 1 || pairs > 22) return bytes
  const other = random.one(templates)
  const field = random.one(Object.keys(other))
  const pair = encode({ [field]: random.chance(0.5) ? other[field] : anything(random) })
  const copy = join(bytes, pair.subarray(1))
  copy[0]! += 1
  return copy
}

function join(...parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0))
  let at = 0
  for (const part of parts) {
    whole.set(part, at)
    at += part.length
  }
  return whole
}
