/** What runs: small caches and few requests at a time, so that hours of it leave a machine to others. */
import { errorWithin } from '../chaos/settings.ts'

/** Milliseconds, for the workers: long enough for a process that gets the processor seldom. */
export const soakDeadlines = {
  hello: 10_000,
  probe: 1_000,
  reserve: 10_000,
  pairing: 15_000,
  progress: 60_000,
  transfer: 10_000,
  linger: 10_000,
  peerSilent: 10_000,
  ping: 1_000,
  drain: 3_000,
  recycle: 5_000,
}
export type SoakDeadlines = typeof soakDeadlines

/** Milliseconds after which a request without an end is lost. */
export const lostAfter = (each: SoakDeadlines): number => 2 * errorWithin(each) + each.progress

/** Milliseconds until a deployment works again and its pages are free, once all processes run. */
export const recoveryMs = 120_000

/** The cache: so many layers of this model. */
export const [model, layers] = ['llama-3.1-8b', 2] as const
export const pageTokens = 16
export const chunkTokens = 64
export const [fewestTokens, mostTokens] = [16, 256] as const
/** Pages of a worker: for all requests at once, and as many in quarantine. */
export const pages = 256
/** Requests of an engine at once. */
export const atOnce = 8
/** How many of them are aborted, by either side at any moment. */
export const abortShare = 0.15
export const abortWithinMs = 500
/** Milliseconds for which prefill pretends to compute a chunk, so that faults find requests in every phase. */
export const [quickestChunkMs, slowestChunkMs] = [20, 250] as const

/** Of what has been sampled, the first part is warm-up. */
export const warmUpShare = 1 / 3
/** A slope over less than this says nothing. */
export const leastSpanMs = 20 * 60_000

/** Growth an hour that is taken for a leak once it is certain; three standard errors count as doubt. */
export const bounds = {
  'resident bytes': 16 * 2 ** 20,
  'heap bytes': 4 * 2 ** 20,
  descriptors: 4,
  threads: 2,
  'quarantined pages': 2,
} as const
export type Measured = keyof typeof bounds

/**
 * What a vendor's library keeps for each link that has ended, as long as its engine is open; so much of it may come with each fault
 * that ends links.
 */
export const perFault: Readonly<Record<string, Partial<Record<Measured, number>>>> = {
  // The connections of its pool to a peer that is gone: four for each.
  mooncake: { descriptors: 8 },
  // The queue pairs of a link, four of them; the fake libibverbs has a descriptor for each.
  mori: { descriptors: 8, 'resident bytes': 2 ** 20 },
}
