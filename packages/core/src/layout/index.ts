/** What is where: tensors, heads, dtypes. */
export { promptDigest } from './digest.ts'
export { layoutFingerprint } from './fingerprint.ts'
export { type Layout, type Part, type Tensor } from './layout.ts'
export { checkLayout } from './validate.ts'
