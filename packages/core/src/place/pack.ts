/** A place as it travels. */
import { packRuns, unpackRuns, type Run } from '../shape/runs.ts'
import type { Place, TensorPlace } from './place.ts'

/** What tensors of several layers share. */
type TensorForm = Pick<TensorPlace, 'component' | 'part' | 'pageBytes' | 'order'>

export interface PackedPlace extends Omit<Place, 'tensors'> {
  /** The numbers that grow are the layer, the region and the base. */
  readonly tensors: readonly Run<TensorForm>[]
}

export function packPlace({ components, tensors }: Place): PackedPlace {
  const key = ({ component, part }: TensorPlace) => `${component}/${part}`
  const sorted = [...tensors].sort((a, b) =>
    key(a) === key(b) ? a.layer - b.layer : key(a) < key(b) ? -1 : 1,
  )
  return {
    components,
    tensors: packRuns(sorted, ({ component, part, pageBytes, order, layer, region, base }) => ({
      value: { component, part, pageBytes, order },
      numbers: [layer, region, base],
    })),
  }
}

export function unpackPlace({ components, tensors }: PackedPlace): Place {
  return {
    components,
    tensors: unpackRuns(tensors, (form, [layer = 0, region = 0, base = 0]) => ({
      ...form,
      layer,
      region,
      base,
    })),
  }
}
