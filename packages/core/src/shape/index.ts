/** What a model's cache is, the same on both sides. */
export { checkShape, longestSetting, maxTensors, mostSettings, shapeObjection } from './check.ts'
export { checkSameShape } from './compare.ts'
export { promptDigest, type TokenIds } from './digest.ts'
export { packShape, shapeFingerprint, unpackShape, type PackedShape } from './pack.ts'
export { runLength, type Run } from './runs.ts'
export {
  maxNameLength,
  tensorName,
  type CacheShape,
  type ComponentShape,
  type TensorShape,
} from './shape.ts'
