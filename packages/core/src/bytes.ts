/**
 * Which bytes go where, for what proves it: hosts have no need of it.
 *
 * @packageDocumentation
 */
export * from './place/index.ts'
export * from './plan/index.ts'
export * from './shape/index.ts'
export * from './share/index.ts'
