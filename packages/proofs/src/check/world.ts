/** A world as a tuple of numbers: of the state of each reducer, and of each other part. */
import {
  createDecode,
  createPrefill,
  stepDecode,
  stepPrefill,
  type DecodeEffect,
  type DecodeEvent,
  type DecodeState,
  type PrefillEffect,
  type PrefillEvent,
  type PrefillState,
} from '@kvx/core/protocol'
import { Cells } from './cells.ts'
import { newJob } from './hosts.ts'
import { Locals } from './locals.ts'
import { netText } from './network.ts'
import type { Books, Cast, Engines, Net, World } from './parts.ts'
import { performDecode, performPrefill } from './perform.ts'
import { decodeSelf, engineAddress, prefillSelf, small } from './small.ts'
import type { Spec } from './spec.ts'
import { Turn, type Ground } from './turn.ts'

/** Numbers of a tuple. */
export const width = 6

/** Parts by number, and numbers of parts by their text. */
class Numbered<Part extends object> {
  readonly parts: Part[] = []
  readonly #numbers = new Map<string, number>()
  readonly #known = new WeakMap<Part, number>()
  readonly #text: (part: Part) => string

  constructor(text: (part: Part) => string) {
    this.#text = text
  }

  numberOf(part: Part): number {
    const known = this.#known.get(part)
    if (known !== undefined) return known
    const text = this.#text(part)
    let number = this.#numbers.get(text)
    if (number === undefined) {
      number = this.parts.push(part) - 1
      this.#numbers.set(text, number)
    }
    this.#known.set(part, number)
    return number
  }
}

export class Universe {
  readonly ground: Ground
  readonly #nets = new Numbered<Net>(netText)
  readonly #engines = new Numbered<Engines>(JSON.stringify)
  readonly #books = new Numbered<Books>(JSON.stringify)
  readonly #casts = new Numbered<Cast>(JSON.stringify)

  constructor(spec: Spec) {
    const prefills = new Locals<PrefillState, PrefillEvent, PrefillEffect>(stepPrefill, {
      type: 'tick',
    })
    const decodes = new Locals<DecodeState, DecodeEvent, DecodeEffect>(stepDecode, { type: 'tick' })
    this.ground = {
      spec,
      small: small(spec),
      prefills,
      decodes,
      cells: new Cells(),
      performPrefill,
      performDecode,
    }
  }

  /** Different states of a reducer, of prefill and of decode. */
  get locals(): readonly [number, number] {
    return [this.ground.prefills.size, this.ground.decodes.size]
  }

  beginning(): World {
    const { spec, small: all, prefills, decodes } = this.ground
    const actor = (incarnation: string, generation: string) => ({
      ...{ incarnation, generation, isAlive: true, isFrozen: false },
    })
    return {
      prefill: prefills.numberOf(createPrefill(prefillSelf(all, 'p1'), 'p1w1')),
      decode: decodes.numberOf(createDecode(decodeSelf(all, 'd1'), engineAddress(all, 'd1e1'))),
      net: {
        ...{ isWanted: false, current: undefined, wires: [], again: { up: [], down: [] } },
        watch: undefined,
      },
      engines: {
        ...{ links: [], writes: [], fences: [], connected: [], barred: [], gone: [] },
        ...{ digesting: [], comparing: [] },
        isRecycling: { prefill: false, decode: false },
      },
      books: {
        jobs: Array.from({ length: spec.oneByOne ? 1 : spec.jobs }, (_, job) => newJob(spec, job)),
        ...{ reserves: [], lastEpoch: 0, heard: [] },
      },
      cast: {
        prefill: actor('p1', 'p1w1'),
        decode: actor('d1', 'd1e1'),
        faultsLeft: spec.most,
        columns: [],
      },
    }
  }

  write(world: World, to: Uint32Array): void {
    to[0] = world.prefill
    to[1] = world.decode
    to[2] = this.#nets.numberOf(world.net)
    to[3] = this.#engines.numberOf(world.engines)
    to[4] = this.#books.numberOf(world.books)
    to[5] = this.#casts.numberOf(world.cast)
  }

  read(from: Uint32Array, at: number): World {
    return {
      prefill: from[at]!,
      decode: from[at + 1]!,
      net: this.#nets.parts[from[at + 2]!]!,
      engines: this.#engines.parts[from[at + 3]!]!,
      books: this.#books.parts[from[at + 4]!]!,
      cast: this.#casts.parts[from[at + 5]!]!,
    }
  }

  turn(world: World): Turn {
    return new Turn(this.ground, world)
  }
}
