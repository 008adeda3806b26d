/**
 * The engine contract: all that the author of a transfer engine needs, without any dependency.
 *
 * @packageDocumentation
 */
export * from './contract.ts'
export { eachCopy } from './copies.ts'
export * from './digest.ts'
export * from './errors.ts'
