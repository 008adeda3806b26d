/** A prompt's cache from the pool of one model into that of another, as a transfer engine would move it. */
import { Pairing, type RequestPart, type TokenPart } from '@kvx/core/bytes'
import { expand } from '@kvx/native'
import { prefill, type CachePages, type LlamaModel, type PrefillChunk } from '../../src/index.ts'

export interface Moved {
  readonly firstToken: number
  /** Of the decoder's pool. */
  readonly pages: CachePages
  readonly chunks: readonly PrefillChunk[]
  /** Units that were moved and that had to be, by component. */
  readonly units: Readonly<Record<string, { moved: number; expected: number }>>
}

/**
 * Prefills with one model and copies each chunk's pages into the pool of another when it is computed.
 *
 * @param withheld a component of which nothing is moved
 */
export async function move(
  from: LlamaModel,
  to: LlamaModel,
  tokens: readonly number[],
  { chunkTokens, withheld }: { chunkTokens?: number; withheld?: string } = {},
): Promise<Moved> {
  const { shape } = from.cache
  const pairing = new Pairing(shape, from.cache, to.cache)
  const prompt = { tokens: tokens.length, prefix: 0 }
  const source: Record<string, Int32Array> = {}
  const destination: Record<string, Int32Array> = {}
  const firstPage: Record<string, number> = {}
  const units: Record<string, { moved: number; expected: number }> = {}
  for (const { name, addressed } of shape.components) {
    units[name] = { moved: 0, expected: pairing.expected(name, { prompt, slots: 1 }).units }
    if (addressed === 'request') {
      source[name] = Int32Array.of(1)
      destination[name] = Int32Array.of(0)
    } else {
      const range = pairing.pages(name, prompt)
      firstPage[name] = range.source[0]
      source[name] = scattered(range.source, from.cache.place.components[name]?.pages ?? 0)
      destination[name] = scattered(range.destination, to.cache.place.components[name]?.pages ?? 0)
    }
  }
  const chunks: PrefillChunk[] = []
  const { firstToken } = await prefill(from, {
    ...{ tokens, pages: source, chunkTokens, sampling: { ignoreEos: true } },
    onChunk(chunk) {
      chunks.push(chunk)
      const parts: (TokenPart | RequestPart)[] = []
      for (const { name, addressed } of shape.components) {
        if (name === withheld) continue
        const [all, target] = [
          source[name] ?? Int32Array.of(),
          destination[name] ?? Int32Array.of(),
        ]
        const [start, end] = chunk.pages[name] ?? [0, 0]
        if (addressed === 'tokens') {
          const first = (firstPage[name] ?? 0) + start
          const pages = all.subarray(start, end)
          parts.push({ component: name, prompt, first, source: pages, destination: target })
        } else if (chunk.last) {
          parts.push({ component: name, source: all, destination: target })
        }
      }
      const { plan, moved } = pairing.plan(parts)
      parts.forEach(({ component }, i) => {
        const count = units[component]
        if (count) count.moved += moved[i]?.units ?? 0
      })
      copy(from, to, expand(plan, [from.memory.bytes], [to.memory.bytes]))
    },
  })
  return { firstToken, pages: destination, chunks, units }
}

/** Pages in no order, out of those that exist. */
function scattered([first, end]: readonly [number, number], exist: number): Int32Array {
  return Int32Array.from({ length: end - first }, (_, i) => (i * 7 + 3) % exist)
}

function copy(from: LlamaModel, to: LlamaModel, segments: Float64Array): void {
  for (let at = 0; at < segments.length; at += 5) {
    const [, , source = 0, destination = 0, bytes = 0] = segments.subarray(at, at + 5)
    const [read, write] = [from.memory.view?.(source, bytes), to.memory.view?.(destination, bytes)]
    if (!read || !write) throw new Error('no view')
    write.set(read)
  }
}
