/**
 * Proofs of what kvx promises that are too long for a test file.
 *
 * @packageDocumentation
 */
export { tryPromise, type Outcome } from './bytes/property.ts'
