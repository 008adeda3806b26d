/** Is a shape that means nothing refused, and does a difference between two sides have a name? */
import * as fc from 'fast-check'
import { expect, test } from 'vitest'
import {
  checkSameShape,
  checkShape,
  packShape,
  shapeFingerprint,
  unpackShape,
  type CacheShape,
  type ComponentShape,
  type TensorShape,
} from '../../src/shape/index.ts'

const tensor: TensorShape = { layer: 0, part: 'k', dtype: 'f16', units: 8, unitBytes: 256 }
const component: ComponentShape = { name: 'kv', addressed: 'tokens', tensors: [tensor] }
const state: ComponentShape = {
  name: 'mamba',
  addressed: 'request',
  tensors: [{ ...tensor, part: 'ssm', rows: 4 }],
}
const shape: CacheShape = { model: 'm', layers: 4, components: [component, state] }

const withTensor = (change: object): CacheShape => ({
  ...shape,
  components: [{ ...component, tensors: [{ ...tensor, ...change }] }, state],
})
const withComponent = (change: object): CacheShape => ({
  ...shape,
  components: [{ ...component, ...change }, state],
})

test.each<[string, unknown, string]>([
  ['no object', 5, 'shape must be an object, got 5.'],
  [
    'a key that does not exist',
    { ...shape, layer: 4 },
    "shape: there is no 'layer'. Did you mean 'layers'?",
  ],
  ['no layers', { ...shape, layers: 0 }, 'shape.layers must be an integer from 1 on, got 0.'],
  ['no tensors', { ...shape, components: [] }, 'shape must have 1 to 65536 tensors, got 0.'],
  [
    'a setting that is a number',
    { ...shape, settings: { a: 1 } },
    'shape.settings.a must be a string of at most 200 characters, got 1.',
  ],
  [
    'a component twice',
    { ...shape, components: [component, component] },
    "shape has the component 'kv' twice.",
  ],
  ['a tensor twice', withComponent({ tensors: [tensor, tensor] }), 'shape has kv layer 0 k twice.'],
  [
    'a layer too many',
    withTensor({ layer: 4 }),
    'kv layer 4 k: layer must be from 0 to 3, as shape.layers is 4.',
  ],
  [
    'half a unit',
    withTensor({ units: 1.5 }),
    'shape.components[0].tensors[0].units must be an integer from 1 on, got 1.5.',
  ],
  [
    'elements that do not fit',
    withTensor({ elementBytes: 3 }),
    'kv layer 0 k: elementBytes must divide unitBytes (256), got 3.',
  ],
  [
    'rows of tokens',
    withTensor({ rows: 2 }),
    "kv layer 0 k: rows is for components that are addressed by 'request'.",
  ],
  [
    'a window of a state',
    { ...shape, components: [{ ...state, window: 5 }] },
    "'mamba' is addressed by request, so it has no window.",
  ],
  [
    'tokens of a state',
    { ...shape, components: [{ ...state, tensors: [{ ...tensor, tokensPerRow: 2 }] }] },
    "mamba layer 0 k: tokensPerRow is for components that are addressed by 'tokens'.",
  ],
])('%s is refused', (_, wrong, message) => {
  expect(() => {
    checkShape(wrong as CacheShape)
  }).toThrow(expect.objectContaining({ code: 'ERR_KVX_INVALID_ARGUMENT', message }))
})

const differences: [string, CacheShape, string][] = [
  [
    'weights',
    { ...shape, model: 'n' },
    'in the model: prefill has m, decode has n. Load the same model on both sides;',
  ],
  [
    'settings',
    { ...shape, settings: { rope: '2' } },
    "in the setting 'rope': prefill has none, decode has 2. Start both sides with the same settings.",
  ],
  ['layers', { ...shape, layers: 5 }, 'in the number of layers: prefill has 4, decode has 5.'],
  [
    'components',
    { ...shape, components: [component] },
    'in their components: prefill has kv, mamba, decode has kv.',
  ],
  [
    'windows',
    withComponent({ window: 128 }),
    "in the window of 'kv': prefill has none, decode has 128.",
  ],
  ['tensors', withTensor({ layer: 1 }), 'in kv layer 0 k: prefill has it, decode has none.'],
  [
    'dtypes',
    withTensor({ dtype: 'fp8_e4m3' }),
    'in the dtype of kv layer 0 k: prefill has f16, decode has fp8_e4m3.',
  ],
  ['heads', withTensor({ units: 4 }), 'in the units of kv layer 0 k: prefill has 8, decode has 4.'],
  [
    'head sizes',
    withTensor({ unitBytes: 128 }),
    'in the bytes per unit of kv layer 0 k: prefill has 256, decode has 128.',
  ],
  [
    'rows',
    withTensor({ tokensPerRow: 2 }),
    'in the tokens per row of kv layer 0 k: prefill has 1, decode has 2.',
  ],
]

test.each(differences)('other %s are refused by name, with both values', (_, other, message) => {
  expect(() => {
    checkSameShape(shape, other)
  }).toThrow(
    expect.objectContaining({
      code: 'ERR_KVX_LAYOUT_MISMATCH',
      phase: 'hello',
      message: expect.stringContaining(`The caches differ ${message}`) as string,
    }),
  )
  expect(shapeFingerprint(other)).not.toEqual(shapeFingerprint(shape))
})

test('the order in which a host lists things, and a default that it states, make no difference', () => {
  const settings = { a: '1', b: '2' }
  const same: CacheShape = {
    ...shape,
    settings: { b: '2', a: '1' },
    components: [state, { ...component, tensors: [{ ...tensor, tokensPerRow: 1 }] }],
  }
  checkSameShape({ ...shape, settings }, same)
  expect(shapeFingerprint(same)).toEqual(shapeFingerprint({ ...shape, settings }))
})

test('eighty layers, and ten thousand tensors, travel as few entries', () => {
  const tensors = Array.from({ length: 10_000 }, (_, i) => ({
    ...tensor,
    layer: Math.floor(i / 2),
    part: i % 2 === 0 ? 'k' : 'v',
  }))
  const large: CacheShape = { ...shape, layers: 5_000, components: [{ ...component, tensors }] }
  checkShape(large)
  expect(JSON.stringify(packShape(large)).length).toBeLessThan(500)
  expect(shapeFingerprint(unpackShape(packShape(large)))).toEqual(shapeFingerprint(large))
})

test('whatever the layers are, a shape that was packed is the same shape', () => {
  const layerLists = fc.uniqueArray(fc.integer({ min: 0, max: 30 }), { minLength: 1 })
  fc.assert(
    fc.property(layerLists, fc.constantFrom('k', 'v', 'latent'), (layers, part) => {
      const tensors = layers.map((layer) => ({ ...tensor, layer, part }))
      const given = { ...shape, layers: 31, components: [{ ...component, tensors }] }
      const back = unpackShape(packShape(given))
      checkSameShape(given, back)
      expect(back.components[0]?.tensors).toHaveLength(layers.length)
    }),
  )
})
