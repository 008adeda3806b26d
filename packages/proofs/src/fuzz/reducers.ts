/**
 * Frames against the code that decides, without sockets: codec, schema, and the reducers with live
 * transfers in every phase. Any exception but a refusal is a finding, and so is any refused frame that
 * changes the state.
 */
import { parseMessage } from '@kvx/core/protocol'
import { Feeder } from './feed.ts'
import { makeFrame } from './frames/frame.ts'
import { FrameRandom } from './random.ts'
import { BootstrapWorld } from './worlds/bootstrap.ts'
import { DecodeWorld } from './worlds/decode.ts'
import { PrefillWorld } from './worlds/prefill.ts'
import { overTheWire } from './wire.ts'

const framesPerTurn = 64
const turnsPerWorld = 25
/** In turns, so that a short run comes to all of them. */
const worlds = [PrefillWorld, DecodeWorld, PrefillWorld, DecodeWorld, BootstrapWorld] as const

/** A defect, with what replays it. */
export class Finding extends Error {}

/**
 * @param options.everyHash the state is compared around every n-th refused frame
 * @returns how many frames got how far
 * @throws Finding
 */
export function fuzzReducers(options: {
  seed: number
  frames: number
  everyHash: number
  onProgress?: (done: number) => void
}): Record<string, number> {
  const { seed, frames, everyHash, onProgress } = options
  const random = new FrameRandom(seed)
  // Mutants of what is wrong to begin with would never get far.
  for (const world of [new PrefillWorld(random), new DecodeWorld(random)]) {
    for (const template of world.templates()) parseMessage(overTheWire(template))
  }
  const feeder = new Feeder(random, everyHash)
  let done = 0
  for (let round = 0; done < frames; round++) {
    const world = new worlds[round % worlds.length]!(random)
    const found = (what: string) =>
      new Finding(`frame ${String(done)} of seed ${String(seed)}, ${world.name}: ${what}`)
    for (let turn = 0; turn < turnsPerWorld && done < frames; turn++) {
      const templates = world.templates()
      for (let i = 0; i < framesPerTurn && done < frames; i++) {
        const frame = makeFrame(random, templates)
        try {
          feeder.feed(world, frame)
        } catch (cause) {
          const bytes = Buffer.from(frame).toString('hex').slice(0, 8_000)
          throw found(`${(cause as Error).stack ?? String(cause)}\n${bytes}`)
        }
        done++
        if (done % 50_000 === 0) onProgress?.(done)
      }
      world.turn()
    }
    const left = world.leftovers()
    if (left !== '') throw found(`the world ended with ${left}.`)
  }
  return feeder.counts
}
