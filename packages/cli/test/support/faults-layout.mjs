/** The cache that both sides of the fault tests agree on: one tensor, large pages. */
export const token = 'a token for fault tests'
export const pageTokens = 16
export const pageBytes = 1 << 20
export const poolPages = 96

export const ids = (tokens) => Array.from({ length: tokens }, (_, i) => i % 1_000)

export function layoutOf(pages) {
  return {
    model: 'faults',
    pageTokens,
    layers: 1,
    heads: 1,
    pages: { kv: pages },
    tensors: [
      {
        component: 'kv',
        layer: 0,
        part: 'latent',
        dtype: 'u8',
        region: 0,
        base: 0,
        pageBytes,
        heads: [0, 1],
        headBytes: pageBytes / pageTokens,
        order: 'token-major',
      },
    ],
  }
}
