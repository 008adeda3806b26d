/** Makes frames of messages, one or several: as they are, with other values in them, with damaged bytes, or of noise alone. */
import type { FrameRandom } from '../random.ts'
import type { Template } from '../worlds/world.ts'
import { damage } from './damage.ts'
import { edited } from './edit.ts'
import { encode, encoded } from './encode.ts'

/** @param templates messages that are valid at this moment */
export function makeFrame(random: FrameRandom, templates: readonly Template[]): Uint8Array {
  if (!random.chance(0.1)) return makePart(random, templates)
  const parts = Array.from({ length: 2 + random.below(5) }, () => makePart(random, templates))
  return new Uint8Array(Buffer.concat(parts))
}

function makePart(random: FrameRandom, templates: readonly Template[]): Uint8Array {
  const kind = random.below(100)
  if (kind < 4) return noise(random)
  const template = random.one(templates)
  // As it is: hostile only by where and when it arrives.
  if (kind < 30) return encoded(template)
  if (kind >= 85) return damage(random, encoded(template), templates)
  const frame = encode(edited(random, template, templates))
  return kind < 70 ? frame : damage(random, frame, templates)
}

function noise(random: FrameRandom): Uint8Array {
  const bytes = random.bytes(random.one([0, 1, 2, 3, 8, 40, 200, 1_000]))
  // Half of it begins as a map.
  if (bytes.length > 0 && random.chance(0.5)) bytes[0] = 0xa0 + random.below(24)
  return bytes
}
