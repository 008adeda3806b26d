/** Caches and ranks that do not fit: each refusal names the field, what prefill has, what decode has, and what would fit. */
import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { packPlace, type Place } from '../src/place/index.ts'
import { pairRanks, type Itself } from '../src/protocol/fit.ts'
import { packShape, type CacheShape, type ComponentShape } from '../src/shape/index.ts'
import { makeRank, type Rank } from '../src/share/index.ts'
import { holdsLayer } from './support/ranks.ts'

const f16 = { dtype: 'f16', elementBytes: 2 }
const kv: ComponentShape = {
  ...{ name: 'kv', addressed: 'tokens' },
  tensors: [0, 1].flatMap((layer) =>
    ['k', 'v'].map((part) => ({ layer, part, units: 4, unitBytes: 8, ...f16 })),
  ),
}
const swa: ComponentShape = { ...kv, name: 'swa', window: 128 }
const scales: ComponentShape = {
  ...{ name: 'scales', addressed: 'tokens' },
  tensors: [{ layer: 0, part: 's', dtype: 'f32', units: 4, unitBytes: 4, tokensPerRow: 16 }],
}
const mamba: ComponentShape = {
  ...{ name: 'mamba', addressed: 'request' },
  tensors: [{ layer: 1, part: 'conv', units: 4, unitBytes: 4, rows: 3, ...f16 }],
}
const shape: CacheShape = {
  ...{ model: 'llama', settings: { 'cache dtype': 'f16' }, layers: 2 },
  components: [kv, swa, scales, mamba],
}

/** The shape with a change to one tensor, of a component. */
const withTensor = (name: string, change: object): CacheShape => ({
  ...shape,
  components: shape.components.map((one) =>
    one.name === name
      ? {
          ...one,
          tensors: one.tensors.map((tensor, i) => (i === 0 ? { ...tensor, ...change } : tensor)),
        }
      : one,
  ),
})
const withComponent = (name: string, change: object): CacheShape => ({
  ...shape,
  components: shape.components.map((one) => (one.name === name ? { ...one, ...change } : one)),
})

interface Side {
  readonly shape?: CacheShape
  readonly rank?: Partial<Rank>
  readonly pageTokens?: number
}

function side({ shape: of = shape, rank: given = {}, pageTokens = 16 }: Side): Itself {
  const rank = makeRank(of.layers, given)
  return { shape: of, rank, place: placeOf(of, rank, pageTokens) }
}

/** One tensor after the other, with room for all units. */
function placeOf({ components }: CacheShape, rank: Rank, pageTokens: number): Place {
  let base = 0
  const held = components
    .map((one) => ({ ...one, tensors: one.tensors.filter(({ layer }) => holdsLayer(rank, layer)) }))
    .filter(({ tensors }) => tensors.length > 0)
  return {
    components: Object.fromEntries(
      held.map(({ name, addressed }) => [
        name,
        { pages: 2, ...(addressed === 'tokens' && { pageTokens }) },
      ]),
    ),
    tensors: held.flatMap(({ name, addressed, tensors }) =>
      tensors.map(({ layer, part, units, unitBytes, rows = 1 }) => {
        const pageBytes = units * unitBytes * (addressed === 'tokens' ? pageTokens : rows)
        const at = {
          component: name,
          layer,
          part,
          region: 0,
          base,
          pageBytes,
          order: 'NHD' as const,
        }
        base += 2 * pageBytes
        return at
      }),
    ),
  }
}
const introduced = ({ shape: of, rank, place }: Itself) => ({
  ...{ rank, shape: packShape(of), place: packPlace(place) },
})

const sameShape =
  'State the same shape on both sides: it is that of the whole model, whatever a rank holds of it.'
const layout = 'ERR_KVX_LAYOUT_MISMATCH'
const pages = 'ERR_KVX_PAGE_SIZE_MISMATCH'

/** What decode has instead. */
const refused: [what: string, decode: Side, code: string, message: string][] = [
  [
    'another model',
    { shape: { ...shape, model: 'qwen' } },
    layout,
    'The caches differ in the model: prefill has llama, decode has qwen. Load the same model on both sides; a file that should be the same is damaged on one of them.',
  ],
  [
    'another setting',
    { shape: { ...shape, settings: { 'cache dtype': 'f16', rope: 'long' } } },
    layout,
    "The caches differ in the setting 'rope': prefill has none, decode has long. Start both sides with the same settings.",
  ],
  [
    'another number of layers',
    { shape: { ...shape, layers: 3, components: [kv, swa, scales, mamba] } },
    layout,
    'The caches differ in the number of layers: prefill has 2, decode has 3. Both sides need the same layers, those of a draft model among them.',
  ],
  [
    'a component less',
    { shape: { ...shape, components: [kv, swa, scales] } },
    layout,
    `The caches differ in their components: prefill has kv, mamba, scales, swa, decode has kv, scales, swa. ${sameShape}`,
  ],
  [
    'a component that is addressed otherwise',
    { shape: withComponent('kv', { addressed: 'request' }) },
    layout,
    `The caches differ in how 'kv' is addressed: prefill has tokens, decode has request. ${sameShape}`,
  ],
  [
    'another window',
    { shape: withComponent('swa', { window: 4096 }) },
    layout,
    `The caches differ in the window of 'swa': prefill has 128, decode has 4096. ${sameShape}`,
  ],
  [
    'no window',
    { shape: withComponent('swa', { window: undefined }) },
    layout,
    `The caches differ in the window of 'swa': prefill has 128, decode has none. ${sameShape}`,
  ],
  [
    'a tensor less',
    { shape: withComponent('kv', { tensors: kv.tensors.slice(1) }) },
    layout,
    `The caches differ in kv layer 0 k: prefill has it, decode has none. ${sameShape}`,
  ],
  [
    'another dtype',
    { shape: withTensor('kv', { dtype: 'bf16' }) },
    layout,
    'The caches differ in the dtype of kv layer 0 k: prefill has f16, decode has bf16. Start both sides with the same cache dtype.',
  ],
  [
    'the heads of one rank for those of the model',
    { shape: withTensor('kv', { units: 2 }) },
    layout,
    `The caches differ in the units of kv layer 0 k: prefill has 4, decode has 2. ${sameShape}`,
  ],
  [
    'larger heads',
    { shape: withTensor('kv', { unitBytes: 16 }) },
    layout,
    `The caches differ in the bytes per unit of kv layer 0 k: prefill has 8, decode has 16. ${sameShape}`,
  ],
  [
    'other elements',
    { shape: withTensor('kv', { elementBytes: 4 }) },
    layout,
    `The caches differ in the bytes per element of kv layer 0 k: prefill has 2, decode has 4. ${sameShape}`,
  ],
  [
    'scales of other blocks',
    { shape: withTensor('scales', { tokensPerRow: 8 }) },
    layout,
    `The caches differ in the tokens per row of scales layer 0 s: prefill has 16, decode has 8. ${sameShape}`,
  ],
  [
    'a longer convolution',
    { shape: withTensor('mamba', { rows: 4 }) },
    layout,
    `The caches differ in the rows per slot of mamba layer 1 conv: prefill has 3, decode has 4. ${sameShape}`,
  ],
  [
    'ranks that cannot share the heads',
    { rank: { tpSize: 3 } },
    layout,
    'The ranks do not fit in tpSize: prefill has 1, decode has 3. kv layer 0 k has 4 units, which 3 ranks cannot share evenly; a number of ranks that divides 4, or is a multiple of it, would fit.',
  ],
  [
    'stages that end elsewhere',
    { rank: { stages: [0, 1] } },
    layout,
    'The ranks do not fit in stages: prefill has [0, 2], decode has [0, 1]. The cache has 2 layers, those of a draft model among them; stages that end there would fit.',
  ],
  [
    'tokens dealt out across a row of scales',
    { rank: { cpSize: 2, context: { interleave: 8 } } },
    layout,
    "The ranks do not fit in context: prefill has 'all', decode has { interleave: 8 }. scales layer 0 s has one row for 16 tokens, which may not be dealt out to two ranks; a multiple of 16 would fit.",
  ],
  [
    'pages that hardly ever begin together',
    { pageTokens: 16 * 65_537 },
    pages,
    "The pages of 'kv' do not fit: prefill has pages of 16 tokens, decode has pages of 1048592 tokens. These begin at the same token only every 1048592 tokens; page sizes of which one divides the other would fit.",
  ],
  [
    'stretches that hardly ever begin together',
    { rank: { cpSize: 2, context: { interleave: 16 * 65_537 } } },
    pages,
    "The pages of 'kv' do not fit: prefill has pages of 16 tokens, decode has pages of 16 tokens that hold one of every 2 stretches of 1048592. These begin at the same token only every 2097184 tokens; page sizes of which one divides the other would fit.",
  ],
]

const prefill = side({})

test('a decode rank that differs in nothing fits, whatever its ranks and pages', () => {
  for (const decode of [{}, { rank: { tpSize: 8, tp: 3 } }, { pageTokens: 64 }]) {
    expect(() => pairRanks(prefill, 'prefill', introduced(side(decode)), 1)).not.toThrow()
  }
})

describe.each(refused)('decode with %s', (_, given, code, message) => {
  // Where the tensors lie is a matter of its own; most of these places would overlap.
  const decode = side(given)

  test.each(['prefill', 'decode'] as const)(
    'is told by %s the field, both values, and what would fit',
    (role) => {
      const [self, peer] = role === 'prefill' ? [prefill, decode] : [decode, prefill]
      expect(() => pairRanks(self, role, introduced(peer), 1)).toThrow(
        expect.objectContaining({ code, message, phase: 'hello' }),
      )
    },
  )
})

test('docs/layouts.md lists them as they are said', () => {
  const docs = readFileSync(new URL('../../../docs/layouts.md', import.meta.url), 'utf8')
  const [, block = ''] = /```text\n(The caches differ[^`]*)```/.exec(docs) ?? []
  const listed = block.split('\n\n').map((paragraph) => paragraph.trim().replaceAll(/\s+/g, ' '))
  expect(listed).toEqual(refused.map(([, , , message]) => message))
})
