/** The cache that both sides of the fault tests agree on: one tensor, large pages. */
export const token = 'a token for fault tests'
export const pageTokens = 16
export const pageBytes = 1 << 20
export const poolPages = 96

export const ids = (tokens) => Array.from({ length: tokens }, (_, i) => i % 1_000)

const tensor = { layer: 0, part: 'latent' }
export const cache = {
  shape: {
    model: 'faults',
    layers: 1,
    components: [
      {
        name: 'kv',
        addressed: 'tokens',
        tensors: [{ ...tensor, dtype: 'u8', units: 1, unitBytes: pageBytes / pageTokens }],
      },
    ],
  },
  place: {
    components: { kv: { pageTokens, pages: poolPages } },
    tensors: [{ component: 'kv', ...tensor, region: 0, base: 0, pageBytes, order: 'NHD' }],
  },
}
