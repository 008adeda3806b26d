/**
 * What `verifyKV` compares: of each component and layer 16 bytes over what one rank has sent to another, computed at each
 * side from its own memory, by what the bytes stand for and not by where they lie.
 */
import type { Leg } from '../books/legs.ts'
import { rowOf } from '../shape/content.ts'
import { heldTokens, layerOf } from '../shape/memory.ts'

const width = 16

/**
 * @param layers of each component of which anything moves, ascending
 * @param posted source, destination and length of each copy
 */
export function digestsOf(
  leg: Leg,
  layers: ReadonlyMap<string, readonly number[]>,
  posted: readonly number[],
): Record<string, Uint8Array> {
  const { memory, slot } = leg.host
  const { componentAt, cellAt } = slot.memory
  const digests = new Map<string, DataView>()
  for (const [name, list] of layers)
    digests.set(name, new DataView(new ArrayBuffer(width * list.length)))
  const side = leg.side === 'prefill' ? 0 : 1
  const meaning = meaningIn(leg)
  const names = new Map(slot.memory.held.map(({ number, component }) => [number, component.name]))
  for (let i = 0; i < posted.length; i += 3) {
    for (let at = posted[i + side]!, end = at + posted[i + 2]!; at < end; at++) {
      const row = meaning(at)
      if (row === undefined) continue
      const name = names.get(componentAt[at]!) ?? ''
      const cell = cellAt[at]!
      const layer = layers.get(name)?.indexOf(layerOf(cell)) ?? -1
      const digest = digests.get(name)
      if (digest && layer >= 0) mix(digest, width * layer, [cell, row, memory[at]!])
    }
  }
  return Object.fromEntries(
    [...digests].map(([name, { buffer }]) => [name, new Uint8Array(buffer as ArrayBuffer)]),
  )
}

/** A byte that stands for something: not one behind the last token of the prompt. */
export function isMeant(leg: Leg, at: number): boolean {
  return meaningIn(leg)(at) !== undefined
}

/** The row that a byte of its pages belongs to. */
function meaningIn({ host, job, pages }: Leg): (at: number) => number | undefined {
  const { memory } = host.slot
  const held = memory.held.map((component) => {
    const list = pages.get(component.component.name)
    return { component, list, tokens: heldTokens(memory, component, job.tokens) }
  })
  const byNumber = new Map(held.map((each) => [each.component.number, each]))
  return (at) => {
    const { component, list, tokens } = byNumber.get(memory.componentAt[at]!) ?? {}
    if (!component || !list || !tokens) return undefined
    const page = list.pages.indexOf(memory.pageAt[at]!)
    return page < 0 ? undefined : rowOf(memory, component, tokens, list.first + page, at)
  }
}

/** In whichever order the bytes come. */
function mix(digest: DataView, at: number, [cell, row, byte]: [number, number, number]): void {
  let x = Math.imul(cell + 1, 0x9e3779b1) ^ Math.imul(row + 1, 0x85ebca6b) ^ (byte << 24)
  for (let word = 0; word < width; word += 4) {
    x = Math.imul(x ^ (x >>> 15), 0x27d4eb2f + word)
    x ^= x >>> 13
    digest.setUint32(at + word, digest.getUint32(at + word) + x)
  }
}
