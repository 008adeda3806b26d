/** A shape as it travels, and what both sides must agree on in 16 bytes. */
import { checkShape } from './check.ts'
import { digest16 } from './digest.ts'
import { packRuns, unpackRuns, type Run } from './runs.ts'
import type { CacheShape, ComponentShape, TensorShape } from './shape.ts'

/** What equal tensors of several layers share. */
type TensorForm = Omit<TensorShape, 'layer'>

export interface PackedShape extends Omit<CacheShape, 'components'> {
  readonly components: readonly (Omit<ComponentShape, 'tensors'> & {
    /** The number that grows is the layer. */
    readonly tensors: readonly Run<TensorForm>[]
  })[]
}

/** In one order, whatever the order in which a host lists components, tensors and settings. */
export function packShape({ model, settings = {}, layers, components }: CacheShape): PackedShape {
  return {
    model,
    settings: Object.fromEntries(Object.entries(settings).sort(([a], [b]) => compare(a, b))),
    layers,
    components: [...components]
      .sort((a, b) => compare(a.name, b.name))
      .map(({ name, addressed, window, tensors }) => ({
        name,
        addressed,
        ...(window !== undefined && { window }),
        tensors: packRuns(
          [...tensors].sort((a, b) => compare(a.part, b.part) || a.layer - b.layer),
          (tensor) => ({ value: formOf(tensor), numbers: [tensor.layer] }),
        ),
      })),
  }
}

export function unpackShape({ components, ...rest }: PackedShape): CacheShape {
  return {
    ...rest,
    components: components.map(({ tensors, ...component }) => ({
      ...component,
      tensors: unpackRuns(tensors, (form, [layer = 0]) => ({ ...form, layer })),
    })),
  }
}

/**
 * 16 bytes over what all ranks of both sides must agree on.
 *
 * @throws KvxError `ERR_KVX_INVALID_ARGUMENT`
 */
export function shapeFingerprint(shape: CacheShape): Uint8Array {
  checkShape(shape)
  return digest16(JSON.stringify(packShape(shape)))
}

/** Keys in one order, and none that says the default. */
function formOf({
  part,
  dtype,
  units,
  unitBytes,
  elementBytes,
  tokensPerRow = 1,
  rows = 1,
}: TensorShape): TensorForm {
  return {
    part,
    dtype,
    units,
    unitBytes,
    ...(elementBytes !== undefined && { elementBytes }),
    ...(tokensPerRow !== 1 && { tokensPerRow }),
    ...(rows !== 1 && { rows }),
  }
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0
}
