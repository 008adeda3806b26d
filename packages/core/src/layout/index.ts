/** What is where: tensors, heads, dtypes. */
export { digest16, promptDigest, type TokenIds } from './digest.ts'
export { layoutFingerprint } from './fingerprint.ts'
export {
  longestSetting,
  maxNameLength,
  mostSettings,
  pageCount,
  type Layout,
  type Part,
  type Tensor,
} from './layout.ts'
export { checkLayout, checkPlaces, layoutSchema } from './validate.ts'
