/** What a model's cache is, the same on both sides. */
export { checkShape, maxTensors, shapeObjection } from './check.ts'
export { checkSameShape } from './compare.ts'
export { packShape, shapeFingerprint, unpackShape, type PackedShape } from './pack.ts'
export { packRuns, runLength, unpackRuns, type Run } from './runs.ts'
export { tensorName, type CacheShape, type ComponentShape, type TensorShape } from './shape.ts'
