/** The engine contract: all that an author of a backend needs, without dependencies. */
export * from './contract.ts'
export * from './errors.ts'
export { loadBackend, publishedBackends } from './load.ts'
