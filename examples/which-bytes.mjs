// Which bytes of a prefill rank become which bytes of a decode rank: worked out by hand, and as kvx plans it.
import { isDeepStrictEqual } from 'node:util'
import { checkPlace, checkShape, makeRank, Pairing } from '@kvx/core/bytes'
import { expand } from '@kvx/native'

// What the cache is, on both sides: one layer with keys only, 4 heads of 2 numbers in 16 bits.
const [layers, heads, headBytes] = [1, 4, 4]
const k = { layer: 0, part: 'k', dtype: 'f16', units: heads, unitBytes: headBytes, elementBytes: 2 }
const shape = {
  model: 'example',
  layers,
  components: [{ name: 'kv', addressed: 'tokens', tensors: [k] }],
}
checkShape(shape)

// Where each rank keeps its part: prefill's rank 1 of 2 has heads 2 and 3, token by token in pages of 4 tokens;
// decode's only rank has all heads, head by head in pages of 2 tokens.
function cacheOf(rank, { pageTokens, order }) {
  const [pages, held] = [8, heads / rank.tpSize]
  const pageBytes = pageTokens * held * headBytes
  const at = { component: 'kv', layer: 0, part: 'k', region: 0, base: 0, pageBytes, order }
  const place = { components: { kv: { pageTokens, pages } }, tensors: [at] }
  const regionBytes = [pages * pageBytes]
  checkPlace(shape, rank, place, regionBytes)
  return { rank, place, regionBytes }
}
const prefill = cacheOf(makeRank(layers, { tp: 1, tpSize: 2 }), { pageTokens: 4, order: 'NHD' })
const decode = cacheOf(makeRank(layers), { pageTokens: 2, order: 'HND' })

// A prompt of 6 tokens of which decode has the first 2. Its pages are these, in the order of the prompt; decode's
// begin after its prefix.
const prompt = { tokens: 6, prefix: 2 }
const [source, destination] = [
  [5, 2],
  [7, 0],
]

// By hand: base + page · pageBytes, then the row and the unit in the order of the rank.
const byHand = []
for (let token = prompt.prefix; token < prompt.tokens; token++) {
  for (const head of [2, 3]) {
    const from = source[Math.floor(token / 4)] * 32 + (token % 4) * 8 + (head - 2) * headBytes
    const to = destination[Math.floor(token / 2) - 1] * 32 + head * 8 + (token % 2) * headBytes
    for (let byte = 0; byte < headBytes; byte++) byHand.push([from + byte, to + byte])
  }
}

// As kvx plans it, for a chunk with both pages of prefill.
const pairing = new Pairing(shape, prefill, decode)
const { plan, moved } = pairing.plan([
  {
    component: 'kv',
    prompt,
    first: 0,
    source: Int32Array.from(source),
    destination: Int32Array.from(destination),
  },
])
const planned = []
const segments = expand(plan, prefill.regionBytes, decode.regionBytes)
for (let at = 0; at < segments.length; at += 5) {
  const [, , from, to, bytes] = segments.subarray(at, at + 5) // after the regions of both sides
  for (let byte = 0; byte < bytes; byte++) planned.push([from + byte, to + byte])
}

const sorted = (bytes) => bytes.sort(([, a], [, b]) => a - b)
const same = isDeepStrictEqual(sorted(planned), sorted(byHand))
console.log(
  JSON.stringify({ same, bytes: planned.length, copies: segments.length / 5, moved: moved[0] }),
)
