import * as v from 'valibot'
import { parseEndpoint } from '../control/index.ts'
import { rankSchema } from '../protocol/messages.ts'
import { maxRanks } from '../protocol/rank.ts'

/** Version of the messages below. */
export const bootstrapVersion = 1

const name = v.pipe(v.string(), v.minLength(1), v.maxLength(256))
const hex32 = v.pipe(v.string(), v.regex(/^[0-9a-f]{32}$/))
const version = v.literal(bootstrapVersion)

export const recordSchema = v.object({
  /** Name of the instance that the rank belongs to. */
  instance: name,
  /** 32 lower-case hex digits of the rank's manager. */
  incarnation: hex32,
  /** Where the rank's control server is reached: `tcp://host:port`. */
  endpoint: v.pipe(
    v.string(),
    v.maxLength(512),
    v.check((text) => (parseEndpoint(text)?.port ?? 0) > 0, 'not tcp://host:port'),
  ),
  rank: rankSchema,
  backend: name,
})

/** What one rank publishes about itself. */
export type RankRecord = v.InferOutput<typeof recordSchema>

const revision = v.pipe(v.number(), v.integer(), v.minValue(0))
const leaseMs = v.pipe(v.number(), v.integer(), v.minValue(50), v.maxValue(600_000))

export const requestSchema = v.variant('kind', [
  /** The first registration of an incarnation: it takes the place of another one. */
  v.object({ v: version, kind: v.literal('register'), record: recordSchema, leaseMs }),
  /** Keeps a registration alive, or makes it again when the service has lost it. */
  v.object({ v: version, kind: v.literal('renew'), record: recordSchema, leaseMs }),
  v.object({ v: version, kind: v.literal('deregister'), record: recordSchema }),
  /** Without a name: the instance that changed last. */
  v.object({
    v: version,
    kind: v.literal('read'),
    instance: v.optional(name),
    /** What the asker knows already; without it, that there is no such instance. */
    since: v.optional(v.object({ service: hex32, revision })),
    /** For how long the answer may wait for news. Without it, it comes at once. */
    waitMs: v.optional(v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(60_000))),
  }),
])
export type ReadRequest = Extract<BootstrapRequest, { kind: 'read' }>
export type BootstrapRequest = v.InferOutput<typeof requestSchema>

const instanceSchema = v.object({
  instance: name,
  /** Identifies one run of the service: revisions of different runs cannot be compared. */
  service: hex32,
  /** Grows with every change of the instance's ranks. */
  revision,
  /** Every rank of the topology is registered. */
  complete: v.boolean(),
  ranks: v.pipe(v.array(recordSchema), v.maxLength(maxRanks)),
})

/** The registered ranks of one instance. */
export type InstanceRecord = v.InferOutput<typeof instanceSchema>

export const replySchema = v.variant('kind', [
  v.object({ v: version, kind: v.literal('registered') }),
  v.object({ v: version, kind: v.literal('deregistered') }),
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
