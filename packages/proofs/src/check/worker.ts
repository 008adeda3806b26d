/** The process of one world. */
import type { Limits, Told } from './apart.ts'
import { explore } from './explore.ts'
import type { Spec } from './spec.ts'
import { walk } from './walk.ts'

const { spec, bounds } = JSON.parse(process.argv[2] ?? '') as { spec: Spec; bounds: Limits }
const { walks } = bounds
const tell = (told: Told) => process.send?.(told)

tell({
  explored: walks
    ? walk(spec, walks.count, walks.from)
    : explore(spec, bounds, (states, depth) => tell({ states, depth })),
})
