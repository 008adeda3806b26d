import { expect, test } from 'vitest'
import {
  checkLayout,
  layoutFingerprint,
  promptDigest,
  type Layout,
  type Tensor,
} from '../src/layout/index.ts'

const tensor = (changes: Partial<Tensor> = {}): Tensor => ({
  component: 'kv',
  layer: 0,
  part: 'k',
  dtype: 'f16',
  region: 0,
  base: 0,
  pageBytes: 4 * 2 * 8,
  heads: [0, 2],
  headBytes: 8,
  order: 'token-major',
  ...changes,
})

const layout = (changes: Partial<Layout> = {}): Layout => ({
  model: 'm',
  pageTokens: 4,
  layers: 1,
  heads: 2,
  pages: { kv: 10 },
  tensors: [tensor(), tensor({ part: 'v', base: 640 })],
  ...changes,
})

const regions = [1280]

test('a layout whose tensors fill their region is valid', () => {
  checkLayout(layout(), regions)
})

test.each<[string, Layout, string]>([
  [
    'a tensor beyond its region',
    layout({ tensors: [tensor({ base: 641 })] }),
    'kv layer 0 k ends at byte 1281 of region 0, which has 1280',
  ],
  [
    'a region that was not given',
    layout({ tensors: [tensor({ region: 1 })] }),
    'region of kv layer 0 k is 1',
  ],
  [
    'tensors that overlap',
    layout({ tensors: [tensor(), tensor({ part: 'v', base: 639 })] }),
    'kv layer 0 k and kv layer 0 v overlap in region 0',
  ],
  [
    'pages of another size',
    layout({ tensors: [tensor({ pageBytes: 63 })] }),
    'has pages of 63 bytes, but 4 tokens of 2 heads of 8 bytes are 64',
  ],
  [
    'a layer that the model does not have',
    layout({ tensors: [tensor({ layer: 1 })] }),
    'layer of kv layer 1 k is 1',
  ],
  [
    'a head that the model does not have',
    layout({ tensors: [tensor({ heads: [1, 3] })] }),
    'end of the heads of kv layer 0 k is 3',
  ],
  [
    'no heads',
    layout({ tensors: [tensor({ heads: [1, 1] })] }),
    'end of the heads of kv layer 0 k is 1',
  ],
  [
    'a component without pages',
    layout({ pages: {} }),
    "the number of pages of the component 'kv' is missing",
  ],
  [
    'half a page',
    layout({ pages: { kv: 2.5 } }),
    'layout.pages.kv must be an integer from 1 to 2147483647, got 2.5',
  ],
  ['no tensors', layout({ tensors: [] }), 'it has no tensors'],
  [
    'a negative base',
    layout({ tensors: [tensor({ base: -64 })] }),
    'layout.tensors[0].base must be an integer from 0 on, got -64',
  ],
  [
    'a head in two places',
    layout({ tensors: [tensor(), tensor({ base: 640 })] }),
    'kv layer 0 k holds a head twice',
  ],
  [
    'a setting that is a number',
    layout({ settings: { scale: 2 } as unknown as Record<string, string> }),
    'layout.settings.scale must be a string, got 2',
  ],
  [
    'a setting that is too long',
    layout({ settings: { scale: 'x'.repeat(201) } }),
    "the setting 'scale' is not a text of at most 200 characters",
  ],
  [
    'too many settings',
    layout({ settings: Object.fromEntries(Array.from({ length: 65 }, (_, i) => [`s${i}`, ''])) }),
    'it has 65 settings, more than 64',
  ],
])('%s is refused', (_, invalid, text) => {
  expect(() => {
    checkLayout(invalid, regions)
  }).toThrow(
    expect.objectContaining({
      code: 'ERR_KVX_INVALID_ARGUMENT',
      message: expect.stringContaining(text) as string,
    }),
  )
})

test('the fingerprint does not depend on what a rank holds of the model, or where', () => {
  const same = layout({
    pageTokens: 16,
    pages: { kv: 3 },
    tensors: [
      tensor({ part: 'v', base: 64, region: 2, pageBytes: 256 }),
      tensor({ base: 4096, pageBytes: 256 }),
    ],
  })
  expect(layoutFingerprint(same)).toEqual(layoutFingerprint(layout()))
  expect(layoutFingerprint(layout())).toHaveLength(16)
})

test('the order of the settings is not part of the fingerprint', () => {
  const one = layout({ settings: { a: '1', b: '2' } })
  const other = layout({ settings: { b: '2', a: '1' } })
  expect(layoutFingerprint(one)).toEqual(layoutFingerprint(other))
})

test.each<[string, Partial<Layout>]>([
  ['model', { model: 'n' }],
  ['setting', { settings: { 'RoPE factors': 'long' } }],
  ['layers', { layers: 2 }],
  ['heads', { heads: 4 }],
])('another %s gives another fingerprint', (_, changes) => {
  expect(layoutFingerprint(layout(changes))).not.toEqual(layoutFingerprint(layout()))
})

test('the digest of a prompt is the one of its ids as little-endian int32, whatever holds them', () => {
  // python3: hashlib.sha256(struct.pack('<3i', 1, 128000, 2**31 - 1)).hexdigest()[:32]
  expect(Buffer.from(promptDigest([1, 128_000, 2 ** 31 - 1])).toString('hex')).toBe(
    '3774dc9f100b218243af16eabffdebf6',
  )
  expect(promptDigest([1, 2, 3])).toEqual(promptDigest(Int32Array.of(1, 2, 3)))
  expect(promptDigest([1, 2, 3])).not.toEqual(promptDigest([1, 2]))
  expect(promptDigest([1, 2, 3])).not.toEqual(promptDigest([1, 3, 2]))
  expect(promptDigest([])).toHaveLength(16)
})
