import * as v from 'valibot'
import { KvxError } from '@kvx/contract'
import { checked, exactly, integer, name, recordOf, such } from '../arguments.ts'
import { tensorName, type CacheShape, type ComponentShape, type TensorShape } from './shape.ts'

/** Tensors that a shape, and so a rank, may have. */
export const maxTensors = 65_536
/** Settings that a shape may have, and the characters of a name or a value of one. */
export const mostSettings = 64
export const longestSetting = 200

const natural = integer(0)
const positive = integer(1)
const setting = such<string>(
  `a string of at most ${String(longestSetting)} characters`,
  (value) => typeof value === 'string' && value.length <= longestSetting,
)

const shapeSchema = exactly({
  model: name,
  settings: v.optional(recordOf(setting)),
  layers: positive,
  components: v.array(
    exactly({
      name,
      addressed: v.picklist(['tokens', 'request'], "'tokens' or 'request'"),
      window: v.optional(positive),
      tensors: v.array(
        exactly({
          layer: natural,
          part: name,
          dtype: name,
          units: positive,
          unitBytes: positive,
          elementBytes: v.optional(positive),
          tokensPerRow: v.optional(positive),
          rows: v.optional(positive),
        }),
        'an array of tensors',
      ),
    }),
    'an array of components',
  ),
})

/**
 * Does it state a cache: with every tensor once, in a layer that exists, with no measure that means nothing for it?
 *
 * @throws KvxError `ERR_KVX_INVALID_ARGUMENT`
 */
export function checkShape(shape: CacheShape): void {
  checked(shapeSchema, shape, { name: 'shape', code: 'ERR_KVX_INVALID_ARGUMENT', phase: 'open' })
  const wrong = shapeObjection(shape)
  if (wrong === undefined) return
  throw new KvxError('ERR_KVX_INVALID_ARGUMENT', `${wrong}.`, { phase: 'open' })
}

/** The same of what has the form of a shape already. */
export function shapeObjection(shape: CacheShape): string | undefined {
  const { settings = {}, components } = shape
  if (Object.keys(settings).length > mostSettings) {
    return `shape.settings must be at most ${String(mostSettings)}, got ${String(Object.keys(settings).length)}`
  }
  const tensors = components.reduce((sum, component) => sum + component.tensors.length, 0)
  if (tensors === 0 || tensors > maxTensors) {
    return `shape must have 1 to ${String(maxTensors)} tensors, got ${String(tensors)}`
  }
  const names = new Set<string>()
  for (const component of components) {
    if (names.has(component.name)) return `shape has the component '${component.name}' twice`
    names.add(component.name)
    const wrong = componentObjection(component, shape.layers)
    if (wrong !== undefined) return wrong
  }
  return undefined
}

function componentObjection(component: ComponentShape, layers: number): string | undefined {
  if (component.window !== undefined && component.addressed === 'request') {
    return `'${component.name}' is addressed by request, so it has no window`
  }
  const known = new Set<string>()
  for (const tensor of component.tensors) {
    const name = tensorName(component.name, tensor)
    if (known.has(name)) return `shape has ${name} twice`
    known.add(name)
    const wrong = tensorObjection(component, tensor, layers)
    if (wrong !== undefined) return `${name}: ${wrong}`
  }
  return undefined
}

function tensorObjection(
  { addressed }: ComponentShape,
  { layer, unitBytes, elementBytes = unitBytes, tokensPerRow, rows }: TensorShape,
  layers: number,
): string | undefined {
  if (layer < 0 || layer >= layers) {
    return `layer must be from 0 to ${String(layers - 1)}, as shape.layers is ${String(layers)}`
  }
  if (unitBytes % elementBytes !== 0) {
    return `elementBytes must divide unitBytes (${String(unitBytes)}), got ${String(elementBytes)}`
  }
  if (addressed === 'request' && tokensPerRow !== undefined) {
    return "tokensPerRow is for components that are addressed by 'tokens'"
  }
  if (addressed === 'tokens' && rows !== undefined) {
    return "rows is for components that are addressed by 'request'"
  }
  return undefined
}
