/** The engine contract, and how a host finds an engine by its name. */
export * from '@kvx/contract'
export { loadBackend, publishedBackends } from './load.ts'
