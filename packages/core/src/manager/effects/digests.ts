import {
  differingLayers,
  digestJob,
  layerDigests,
  type Pairing,
  type Prompt,
} from '../../plan/index.ts'
import type { PageLists } from '../../protocol/index.ts'
import type { Engine } from '../engine.ts'

/** What is sent, or has arrived, between two ranks for a request. */
export interface Digested {
  readonly pairing: Pairing
  readonly side: 'source' | 'destination'
  readonly prompt: Prompt
  /** Of this side, by component: of prefill all pages that it has of the prompt, of decode those that it provided. */
  readonly pages: PageLists
}

/** Of each component 16 bytes for every layer of which anything moves, ascending. */
export async function digestsOf(
  { current: { engine } }: Engine,
  { pairing, side, prompt, pages: lists }: Digested,
): Promise<Record<string, Uint8Array>> {
  const digests: Record<string, Uint8Array> = {}
  for (const component of pairing.layers.keys()) {
    const list = lists[component] ?? new Int32Array()
    const pages = side === 'source' ? neededOf(pairing, component, prompt, list) : list
    const { job, layers } = digestJob(pairing, { component, side, prompt, pages })
    digests[component] = layerDigests(layers, await engine.digest(job))
  }
  return digests
}

/** Of the pages that prefill has of the prompt those that decode needs; all slots. */
function neededOf(pairing: Pairing, component: string, prompt: Prompt, pages: Int32Array) {
  if (pairing.component(component).table === undefined) return pages
  const [first, end] = pairing.pages(component, prompt).source
  return pages.subarray(first, end)
}

/** The first component and layer of which the two differ. */
export function firstDifference(
  pairing: Pairing,
  sent: Readonly<Record<string, Uint8Array>>,
  arrived: Readonly<Record<string, Uint8Array>>,
): { component: string; layer: number } | undefined {
  for (const [component, layers] of pairing.layers) {
    const [theirs, ours] = [sent[component], arrived[component]]
    if (!theirs || !ours) return { component, layer: layers[0] ?? 0 }
    const [layer] = differingLayers(Int32Array.from(layers), theirs, ours)
    if (layer !== undefined) return { component, layer }
  }
  return undefined
}
