// What both sides of requests.test.ts agree on.
export const token = 'a token for tests'
export const prompt = Array.from({ length: 16 }, (_, i) => i + 100)
const pages = 4

/** One page is the whole prompt: a K and a V tensor of one layer. */
export const cacheOf = (pageBytes) => ({
  shape: {
    model: 'test-model',
    layers: 1,
    components: [
      {
        name: 'kv',
        addressed: 'tokens',
        tensors: ['k', 'v'].map((part) => ({
          ...{ layer: 0, part, dtype: 'f16', units: 2, unitBytes: pageBytes / 32 },
        })),
      },
    ],
  },
  place: {
    components: { kv: { pageTokens: prompt.length, pages } },
    tensors: ['k', 'v'].map((part, i) => ({
      ...{ component: 'kv', layer: 0, part, region: 0, base: i * pages * pageBytes, pageBytes },
      order: 'NHD',
    })),
  },
})
export const memoryBytesOf = (pageBytes) => 2 * pages * pageBytes

export const pageBytes = 64 * 1024
export const cache = cacheOf(pageBytes)
export const memoryBytes = memoryBytesOf(pageBytes)

const both = { progress: 4000, peerSilent: 3000, drain: 1000, recycle: 1000 }
export const deadlines = { prefill: { ...both, transfer: 1000 }, decode: { ...both, ping: 500 } }
