/** What a host has written, in whichever ranges of tokens it names it: against a set of tokens, one by one. */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { Place } from '../src/place/index.ts'
import { Pairing } from '../src/plan/index.ts'
import type { PrefillSelf, Sender } from '../src/protocol/prefill/state.ts'
import { missing, takeWrite } from '../src/protocol/prefill/written.ts'
import type { CacheShape } from '../src/shape/index.ts'
import { makeRank, type Context, type Rank } from '../src/share/index.ts'
import { pageCount, tokensHeld } from './support/ranks.ts'

const layers = 2
const shape: CacheShape = {
  model: 'm',
  layers,
  components: [
    {
      ...{ name: 'kv', addressed: 'tokens' },
      tensors: [0, 1].map((layer) => ({
        ...{ layer, part: 'k', dtype: 'u8', units: 1, unitBytes: 1 },
      })),
    },
  ],
}
const pages = 200

function placeOf(pageTokens: number): Place {
  return {
    components: { kv: { pageTokens, pages } },
    tensors: [0, 1].map((layer) => ({
      ...{ component: 'kv', layer, part: 'k', region: 0, order: 'NHD' as const },
      ...{ base: layer * pages * pageTokens, pageBytes: pageTokens },
    })),
  }
}

interface Request {
  readonly rank: Rank
  readonly pageTokens: number
  readonly tokens: number
  /** Tokens that decode has already, whole pages there. */
  readonly prefix: number
}

const contexts = fc.oneof(
  fc.constant<Context>('all'),
  fc.constant<Context>('contiguous'),
  fc.integer({ min: 1, max: 5 }).map((interleave): Context => ({ interleave })),
)
const requests = fc
  .record({
    context: contexts,
    cpSize: fc.integer({ min: 1, max: 4 }),
    cp: fc.nat(3),
    pageTokens: fc.integer({ min: 1, max: 6 }),
    tokens: fc.integer({ min: 1, max: 60 }),
    prefixPages: fc.nat(12),
  })
  .map(({ context, cpSize, cp, pageTokens, tokens, prefixPages }): Request => {
    // Of copies each would be asked for other layers.
    const size = context === 'all' ? 1 : cpSize
    const rank = makeRank(layers, { cp: cp % size, cpSize: size, context })
    return { rank, pageTokens, tokens, prefix: Math.min(tokens, prefixPages * pageTokens) }
  })

type Range = readonly [number, number]

/** Ranges of tokens, one after the other: whole chunks, or of each chunk the stretches that the rank has. */
function rangesOf({ rank, pageTokens, tokens }: Request, cuts: readonly number[], own: boolean) {
  const ends = [...new Set([...cuts.map((cut) => cut % tokens), tokens])].sort((a, b) => a - b)
  const chunks = ends.map((end, i): Range => [ends[i - 1] ?? 0, end]).filter(([a, b]) => a < b)
  if (!own) return chunks
  const held = new Set(tokensHeld(rank, tokens, pageTokens))
  return chunks.flatMap(([first, end]) => {
    const stretches: [number, number][] = []
    for (let token = first; token < end; token++) {
      if (!held.has(token)) continue
      const last = stretches.at(-1)
      if (last?.[1] === token) last[1]++
      else stretches.push([token, token + 1])
    }
    return stretches
  })
}

function start({ rank, pageTokens, tokens, prefix }: Request) {
  const self = { rank, shape, place: placeOf(pageTokens) } as PrefillSelf
  const alone = { rank: makeRank(layers), place: placeOf(pageTokens) }
  const pairing = new Pairing(shape, { rank, place: self.place }, alone)
  const target = { peer: { pairing }, prompt: { tokens, prefix }, pages: {} }
  const sender = { tokens, targets: [target], written: new Map() } as unknown as Sender
  const page = (number: number) => (number * 7 + 3) % pages
  const write = (range: Range, layer: number) => {
    const end = pageCount(rank, tokens, pageTokens, [0, range[1]])
    const first = end - pageCount(rank, tokens, pageTokens, range)
    const list = Int32Array.from({ length: end - first }, (_, i) => page(first + i))
    return takeWrite(self, sender, {
      ...{ tokens: range, pages: { kv: list }, state: {}, layers: [layer, layer + 1] },
    })
  }
  return { self, sender, page, write }
}

const cutLists = fc.array(fc.nat(59), { maxLength: 6 })

test('every page is sent once, by the write that brings its last token, and nothing is missing then', () => {
  fc.assert(
    fc.property(requests, cutLists, fc.boolean(), (request, cuts, own) => {
      const { rank, pageTokens, tokens } = request
      const { self, sender, page, write } = start(request)
      const held = tokensHeld(rank, tokens, pageTokens)
      const sent: number[][] = [[], []]
      for (const range of rangesOf(request, cuts, own)) {
        for (let layer = 0; layer < layers; layer++) {
          const parts = write(range, layer)
          if (typeof parts === 'string') throw new Error(parts)
          for (const { first = 0, source } of parts) {
            for (const [i, number] of source.entries()) {
              expect(number).toBe(page(first + i))
              sent[layer]!.push(first + i)
              // No token of the page is still to come.
              const last = held[Math.min((first + i + 1) * pageTokens, held.length) - 1]!
              expect(last).toBeLessThan(range[1])
            }
          }
        }
      }
      expect(missing(self, sender)).toBeUndefined()
      const all = Array.from({ length: Math.ceil(held.length / pageTokens) }, (_, i) => i)
      for (const of of sent) expect(of.sort((a, b) => a - b)).toEqual(all)
    }),
  )
})

test('what is not written is missing exactly when the rank has a token of it that decode needs', () => {
  fc.assert(
    fc.property(requests, cutLists, fc.boolean(), fc.nat(), (request, cuts, own, which) => {
      const { rank, pageTokens, tokens, prefix } = request
      const { self, sender, write } = start(request)
      const ranges = rangesOf(request, cuts, own)
      if (ranges.length === 0) return
      const left = which % ranges.length
      const needed = new Set(tokensHeld(rank, tokens, pageTokens).filter((t) => t >= prefix))
      const isNeeded = ([first, end]: Range) => [...needed].some((t) => t >= first && t < end)
      for (const [i, range] of ranges.entries()) {
        if (i !== left) write(range, 0)
        write(range, 1)
      }
      const wrong = missing(self, sender)
      expect(wrong !== undefined).toBe(isNeeded(ranges[left]!))
      const [, first, end] = /^tokens (\d+) to (\d+) of layer 0 of 'kv'/.exec(wrong ?? '') ?? []
      if (wrong === undefined) return
      expect(needed).toContain(Number(first))
      expect(needed).toContain(Number(end) - 1)
    }),
  )
})

test('a token that was written is not written again, in whichever range it is named', () => {
  fc.assert(
    fc.property(requests, fc.nat(59), fc.nat(59), (request, a, b) => {
      const { rank, pageTokens, tokens, prefix } = request
      const [first, end] = [Math.min(a, b) % tokens, (Math.max(a, b) % tokens) + 1]
      const { write } = start(request)
      write([0, tokens], 0)
      if (first >= end) return
      const again = tokensHeld(rank, tokens, pageTokens).some(
        (token) => token >= Math.max(first, prefix) && token < end,
      )
      const answer = write([first, end], 0)
      expect(typeof answer === 'string').toBe(again)
      if (again) expect(answer).toMatch(/of layers 0 to 1 of 'kv' were already written\.$/)
    }),
  )
})
