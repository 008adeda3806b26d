/**
 * Layouts of ranks, and the bytes that the model would compute: made of the prompt and of the place in the
 * model alone, so that both sides of a transfer know them without telling each other.
 */
import { layoutFingerprint, type Layout, type Tensor } from '@kvx/core'
import { headsOf, stageOf, type Rank } from '@kvx/core/protocol'

export const components = ['kv', 'mamba'] as const
export type Component = (typeof components)[number]

/** What the ranks of a schedule have in common. */
export interface Model {
  readonly layers: number
  readonly heads: number
  readonly pageTokens: number
  readonly headBytes: number
  readonly parts: readonly ('k' | 'v' | 'latent')[]
  readonly order: 'token-major' | 'head-major'
  /** Layers that have a page of the state component; none: the model has no state. */
  readonly stateLayers: readonly number[]
  readonly pages: Readonly<Record<Component, number>>
}

/** The memory of one rank. */
export interface RankMemory {
  readonly layout: Layout
  readonly fingerprint: Uint8Array
  readonly bytes: number
  /** Components that the rank holds. */
  readonly held: readonly Component[]
  /** Layers of the cache that the rank holds. */
  readonly kvLayers: readonly number[]
  /** Of each byte: component (0 or 1) times 256, plus page. */
  readonly pageAt: Int32Array
  /** Of each byte: what distinguishes its place in the model from all others of a page. */
  readonly placeAt: Int32Array
  /** Every place of which the rank holds bytes. */
  readonly places: ReadonlySet<number>
  /** Bytes of each page, by component. */
  readonly bytesOf: Readonly<Record<Component, readonly Int32Array[]>>
}

/** By model, then by the rank's cut of it: the same few come again in every schedule. */
const known = new Map<string, RankMemory>()

/** Words that tell models apart. */
export function modelKey({
  layers,
  heads,
  pageTokens,
  headBytes,
  parts,
  order,
  stateLayers,
  pages,
}: Model): string {
  return `${layers} ${heads} ${pageTokens} ${headBytes} ${parts.join()} ${order} ${stateLayers.join()} ${pages.kv} ${pages.mamba}`
}

export function rankMemory(model: Model, key: string, rank: Rank): RankMemory {
  const name = `${key} ${rank.tp}/${rank.tpSize} ${rank.pp} ${rank.stages.join()}`
  let memory = known.get(name)
  if (!memory) {
    memory = lay(model, rank)
    known.set(name, memory)
  }
  return memory
}

function lay(model: Model, rank: Rank): RankMemory {
  const [first, end] = stageOf(rank)
  const heads = headsOf(rank, model.heads)
  const pageBytes = model.pageTokens * (heads[1] - heads[0]) * model.headBytes
  const tensors: Tensor[] = []
  let base = 0
  const add = (component: Component, layer: number, part: Tensor['part']) => {
    const { order, headBytes } = model
    const dtype = 'f16'
    tensors.push({
      component,
      layer,
      part,
      dtype,
      region: 0,
      base,
      pageBytes,
      heads,
      headBytes,
      order,
    })
    base += model.pages[component] * pageBytes
  }
  for (let layer = first; layer < end; layer++)
    for (const part of model.parts) add('kv', layer, part)
  for (const layer of model.stateLayers)
    if (layer >= first && layer < end) add('mamba', layer, 'latent')
  const held = components.filter((name) => tensors.some(({ component }) => component === name))
  const layout: Layout = {
    model: 'simulated',
    pageTokens: model.pageTokens,
    layers: model.layers,
    heads: model.heads,
    pages: Object.fromEntries(held.map((name) => [name, model.pages[name]])),
    tensors,
  }
  return {
    layout,
    fingerprint: layoutFingerprint(layout),
    bytes: base,
    held,
    ...places(model, tensors, base),
  }
}

function places(model: Model, tensors: readonly Tensor[], bytes: number) {
  const pageAt = new Int32Array(bytes)
  const placeAt = new Int32Array(bytes)
  const lists: Record<Component, number[][]> = {
    kv: Array.from({ length: model.pages.kv }, () => []),
    mamba: Array.from({ length: model.pages.mamba }, () => []),
  }
  for (const { component, layer, part, base, pageBytes, heads, headBytes, order } of tensors) {
    const name = component as Component
    const count = heads[1] - heads[0]
    for (let page = 0; page < model.pages[name]; page++) {
      for (let i = 0; i < pageBytes; i++) {
        const cell = Math.floor(i / headBytes)
        const [token, head] =
          order === 'token-major'
            ? [Math.floor(cell / count), cell % count]
            : [cell % model.pageTokens, Math.floor(cell / model.pageTokens)]
        const at = base + page * pageBytes + i
        pageAt[at] = components.indexOf(name) * 256 + page
        placeAt[at] =
          ((((components.indexOf(name) * 64 + layer) * 3 + ['k', 'v', 'latent'].indexOf(part)) *
            64 +
            token) *
            16 +
            heads[0] +
            head) *
            16 +
          (i % headBytes)
        lists[name][page]?.push(at)
      }
    }
  }
  const kvLayers = [...new Set(tensors.filter((t) => t.component === 'kv').map((t) => t.layer))]
  const bytesOf = {
    kv: lists.kv.map((list) => Int32Array.from(list)),
    mamba: lists.mamba.map((list) => Int32Array.from(list)),
  }
  return { pageAt, placeAt, places: new Set(placeAt), bytesOf, kvLayers }
}

/** The byte at a place, for page `index` of a prompt. */
export function byteOf(prompt: number, index: number, place: number): number {
  let x =
    Math.imul(place ^ Math.imul(index + 1, 0x9e3779b1), 0x85ebca6b) ^ Math.imul(prompt, 0xc2b2ae35)
  x = Math.imul(x ^ (x >>> 15), 0x27d4eb2f)
  return (x ^ (x >>> 13)) & 0xff
}

/** Identifies a prompt on the wire: its number is within. */
export function digestOf(prompt: number): Uint8Array {
  const digest = new Uint8Array(16)
  new DataView(digest.buffer).setUint32(0, prompt)
  return digest
}
