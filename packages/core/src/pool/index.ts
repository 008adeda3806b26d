/** Whose are the pages? Free list and leases. */
export { PagePool, type Lease, type PageCounts } from './pool.ts'
export { type Timer } from './timer.ts'
