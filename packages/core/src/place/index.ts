/** Where one rank keeps its part of a cache. */
export { checkPlace, placeObjection } from './check.ts'
export { packPlace, unpackPlace, type PackedPlace } from './pack.ts'
export {
  pageRows,
  type ComponentPlace,
  type PageOrder,
  type Place,
  type TensorPlace,
} from './place.ts'
