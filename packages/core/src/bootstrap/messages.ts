import * as v from 'valibot'
import { parseEndpoint } from '../control/index.ts'
import { maxNameLength } from '../shape/index.ts'
import { rankObject, rankSchema, roomNumber, samples } from '../protocol/messages.ts'
import { makeRank, maxRanks, rankObjection, type Rank } from '../share/index.ts'

/** Version of the messages below. */
export const bootstrapVersion = 1

const name = v.pipe(v.string(), v.minLength(1), v.maxLength(maxNameLength))
const hex32 = v.pipe(v.string(), v.regex(/^[0-9a-f]{32}$/))
const version = v.literal(bootstrapVersion)
const endpoint = v.pipe(
  v.string(),
  v.check((text) => (parseEndpoint(text)?.port ?? 0) > 0, 'not tcp://host:port'),
)

/** What one rank publishes about itself. */
export interface RankRecord {
  /** Name of the instance that the rank belongs to. */
  readonly instance: string
  /** 32 lower-case hex digits of the rank's manager. */
  readonly incarnation: string
  /** Where the rank's control server is reached: `tcp://host:port`. */
  readonly endpoint: string
  /** Where it stands in its instance. */
  readonly rank: Rank
  /** Name of its engine's backend. */
  readonly backend: string
}

export const recordSchema = v.object({
  instance: name,
  incarnation: hex32,
  endpoint,
  rank: rankSchema,
  backend: name,
}) satisfies v.GenericSchema<unknown, RankRecord>

const revision = v.pipe(v.number(), v.integer(), v.minValue(0))
export const shortestLeaseMs = 50
export const longestLeaseMs = 600_000
const leaseMs = v.pipe(
  v.number(),
  v.integer(),
  v.minValue(shortestLeaseMs),
  v.maxValue(longestLeaseMs),
)
/** For how long the service lets a question wait at most. */
export const longestWaitMs = 60_000

export const requestSchema = v.variant('kind', [
  /** The first registration of an incarnation: it takes the place of another one. */
  v.object({ v: version, kind: v.literal('register'), record: recordSchema, leaseMs }),
  /** Keeps a registration alive, or makes it again when the service has lost it. */
  v.object({ v: version, kind: v.literal('renew'), record: recordSchema, leaseMs }),
  v.object({ v: version, kind: v.literal('deregister'), record: recordSchema }),
  /** The data-parallel rank of the record computes these requests. It holds as long as the connection. */
  v.object({ v: version, kind: v.literal('publish'), record: recordSchema, samples }),
  v.object({ v: version, kind: v.literal('withdraw'), record: recordSchema, samples }),
  /** Which data-parallel rank computes these requests? Each is answered once, when it is published. */
  v.object({ v: version, kind: v.literal('ask'), instance: v.optional(name), samples }),
  v.object({ v: version, kind: v.literal('unask'), samples }),
  /** Without a name: the instance that changed last. */
  v.object({
    v: version,
    kind: v.literal('read'),
    instance: v.optional(name),
    /** What the asker knows already; without it, that there is no such instance. */
    since: v.optional(v.object({ service: hex32, revision })),
    /** For how long the answer may wait for news. Without it, it comes at once. */
    waitMs: v.optional(v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(longestWaitMs))),
  }),
])
export type ReadRequest = Extract<BootstrapRequest, { kind: 'read' }>
export type BootstrapRequest = v.InferOutput<typeof requestSchema>

/** The registered ranks of one instance. */
export interface InstanceRecord {
  /** Its name. */
  readonly instance: string
  /** Identifies one run of the service: revisions of different runs cannot be compared. */
  readonly service: string
  /** Grows with every change of the instance's ranks. */
  readonly revision: number
  /** Every rank of the topology is registered. */
  readonly complete: boolean
  /** Those that are registered, of all stages and all data-parallel ranks. */
  readonly ranks: readonly RankRecord[]
}

const coordinate = rankObject.entries.tp
const index = v.pipe(v.number(), v.integer(), v.minValue(0))

/**
 * An instance as it travels: the topology once, and of each rank only what is its own, so that the most ranks with
 * the longest names fit into one message.
 */
const packedInstance = v.object({
  instance: name,
  service: hex32,
  revision,
  complete: v.boolean(),
  topology: v.omit(rankObject, ['tp', 'pp', 'cp', 'dp']),
  ranks: v.pipe(
    v.array(
      // tp, pp, cp, dp, incarnation, endpoint, backend
      v.tuple([coordinate, coordinate, coordinate, coordinate, hex32, endpoint, name]),
    ),
    v.minLength(1),
    v.maxLength(maxRanks),
  ),
})

const instanceSchema = v.pipe(
  packedInstance,
  v.transform(({ topology, ranks, ...about }): InstanceRecord => {
    const { instance } = about
    return {
      ...about,
      ranks: ranks.map(([tp, pp, cp, dp, incarnation, endpoint, backend]) => {
        const rank = { tp, pp, cp, dp, ...topology }
        return { instance, incarnation, endpoint, rank, backend }
      }),
    }
  }),
  v.check(
    ({ ranks }) => ranks.every(({ rank }) => rankObjection(rank) === undefined),
    'a rank outside of the topology',
  ),
)

/** For `found` of an answer. All ranks of an instance have the same topology. */
export function packInstance({
  ranks,
  ...about
}: InstanceRecord): v.InferInput<typeof packedInstance> {
  const { tpSize, ppSize, cpSize, dpSize, context, stages } = ranks[0]?.rank ?? makeRank(0)
  return {
    ...about,
    topology: { tpSize, ppSize, cpSize, dpSize, context, stages: [...stages] },
    ranks: ranks.map(({ rank: { tp, pp, cp, dp }, incarnation, endpoint, backend }) => [
      ...([tp, pp, cp, dp] as const),
      ...([incarnation, endpoint, backend] as const),
    ]),
  }
}

export const replySchema = v.variant('kind', [
  v.object({ v: version, kind: v.literal('registered') }),
  v.object({ v: version, kind: v.literal('deregistered') }),
  /** Room, index, and the data-parallel rank of prefill that computes it. */
  v.object({
    v: version,
    kind: v.literal('published'),
    found: v.tuple([roomNumber, index, coordinate]),
  }),
  /** Without `found`: nobody has registered. */
  v.object({ v: version, kind: v.literal('instance'), found: v.optional(instanceSchema) }),
  v.object({
    v: version,
    kind: v.literal('refused'),
    reason: v.picklist(['replaced', 'topology', 'full', 'malformed']),
    text: v.pipe(v.string(), v.maxLength(1_024)),
  }),
])
export type BootstrapReply = v.InferOutput<typeof replySchema>
/** As it is sent. */
export type PackedReply = v.InferInput<typeof replySchema>
