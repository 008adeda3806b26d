/** What is where: tensors, heads, dtypes. */
export { digest16, promptDigest } from './digest.ts'
export { layoutFingerprint } from './fingerprint.ts'
export {
  longestSetting,
  mostSettings,
  pageCount,
  type Layout,
  type Part,
  type Tensor,
} from './layout.ts'
export { checkLayout } from './validate.ts'
