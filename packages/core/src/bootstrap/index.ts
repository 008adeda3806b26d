/** How ranks find each other: registration with a lease, and reading. */
export { type InstanceRecord, type RankRecord } from './messages.ts'
export { readInstance, type ReadOptions } from './read.ts'
export { registerRank, type RegisterOptions, type Registration } from './register.ts'
export { BootstrapServer, type BootstrapServerOptions } from './server.ts'
export { watchInstance, type Watch, type WatchOptions } from './watch.ts'
