/** The process of one world. */
import type { Told } from './apart.ts'
import { explore, type Bounds } from './explore.ts'
import type { Spec } from './spec.ts'

const { spec, bounds } = JSON.parse(process.argv[2] ?? '') as { spec: Spec; bounds: Bounds }
const tell = (told: Told) => process.send?.(told)

tell({ explored: explore(spec, bounds, (states, depth) => tell({ states, depth })) })
