/** What each public call of a manager takes. What fits together, and what the present state allows, is seen to elsewhere. */
import * as v from 'valibot'
import {
  bytes,
  callback,
  checked,
  endpoint,
  exactly,
  having,
  host,
  integer,
  isObject,
  logger,
  milliseconds,
  name,
  pageList,
  pageLists,
  range,
  recordOf,
  signal,
  such,
  text,
  truth,
} from '../arguments.ts'
import { backendSchema } from '../backend/load.ts'
import { checkToken } from '../control/keys.ts'
import { KvxError, type DeviceWork } from '@kvx/contract'
import type { Place } from '../place/index.ts'
import type { CacheShape } from '../shape/index.ts'
import { statedDpRank, statedRank } from '../share/given.ts'
import type { KVManagerOptions, ReceiveRequest, SendRequest } from './types.ts'

const natural = integer(0)
const positive = integer(1)
const settings = v.optional(such<object>('an object', isObject))
const everywhere = ['0.0.0.0', '::']
/** A room, an address in memory, or a handle of a device's driver. */
const isUint64 = (value: unknown): boolean =>
  typeof value === 'bigint' && value >= 0n && value < 1n << 64n
const uint64 = such<bigint>('a bigint from 0n to 2n ** 64n - 1n', isUint64)

const memory = having({
  address: uint64,
  bytes: positive,
  kind: v.picklist(['cpu', 'cuda', 'hip'], "'cpu', 'cuda' or 'hip'"),
  device: natural,
  fd: v.optional(natural),
  handle: v.optional(bytes),
  offset: v.optional(natural),
  view: v.optional(callback),
})

const openOptions = exactly({
  role: v.picklist(['prefill', 'decode'], "'prefill' or 'decode'"),
  backend: backendSchema,
  backendOptions: settings,
  from: v.optional(text),
  shape: such<object>('an object', isObject),
  place: such<object>('an object', isObject),
  memory: v.pipe(
    v.array(memory, 'an array of memories'),
    v.minLength(1, 'an array of at least one memory'),
  ),
  token: v.unknown(),
  host: v.optional(
    v.pipe(
      host,
      v.check(
        (given) => !everywhere.includes(given),
        'the name or address under which peers reach this machine, as it is told to them',
      ),
    ),
  ),
  bootstrap: v.optional(endpoint),
  instance: v.optional(name),
  rank: v.optional(statedRank),
  verifyKV: v.optional(truth),
  deadlines: settings,
  limits: settings,
  log: v.optional(logger),
})

/** @throws KvxError `ERR_KVX_INVALID_OPTION` */
export function checkOpenOptions(options: KVManagerOptions): void {
  checked(openOptions, options, { name: '', code: 'ERR_KVX_INVALID_OPTION', phase: 'open' })
  checkToken(options.token)
}

const sendEntries = {
  tokens: positive,
  digest: v.pipe(
    bytes,
    v.check((digest) => digest.length === 16, '16 bytes, as promptDigest(tokenIds) makes them'),
  ),
  index: v.optional(natural),
  dpRank: v.optional(statedDpRank),
  deadlines: settings,
}
const requestOf = {
  send: exactly(sendEntries),
  receive: exactly({ ...sendEntries, from: endpoint }),
}
/** @throws KvxError `ERR_KVX_INVALID_ARGUMENT` */
export function checkLeg(
  call: 'send' | 'receive',
  given: { room: bigint; request: SendRequest | ReceiveRequest },
): void {
  checked(uint64, given.room, { ...argument, name: 'room' })
  checked(requestOf[call], given.request, { ...argument, name: 'request' })
}

const wait = v.optional(exactly({ signal: v.optional(signal) }), {})
const state = v.optional(recordOf(pageList), {})
const after = v.optional(
  such<DeviceWork>('{ event: bigint } or { stream: bigint }', (value) => {
    if (!isObject(value)) return false
    const [[kind, handle] = [], ...others] = Object.entries(value as object)
    return others.length === 0 && (kind === 'event' || kind === 'stream') && isUint64(handle)
  }),
)
const chunk = exactly({
  tokens: v.optional(range),
  pages: v.optional(pageLists, {}),
  state,
  layers: v.optional(range),
  after,
})
const aux = v.pipe(
  exactly({
    firstToken: v.optional(natural),
    logprob: v.optional(such<number>('a finite number', Number.isFinite)),
    cachedTokens: v.optional(natural),
    blob: v.optional(bytes),
  }),
  // What is undefined does not travel.
  v.transform((given) =>
    Object.fromEntries(Object.entries(given).filter(([, x]) => x !== undefined)),
  ),
)
const last = v.optional(exactly({ state, aux: v.optional(aux, {}), after }), {})
const reservation = exactly({
  pages: v.optional(pageLists),
  prefixTokens: v.optional(natural, 0),
  state,
})
const provision = exactly({ pages: v.optional(pageLists, {}), state })
const drain = v.optional(exactly({ deadlineMs: v.optional(milliseconds) }), {})

const argument = { code: 'ERR_KVX_INVALID_ARGUMENT', phase: 'reserve' } as const
/** One function for the argument of each call, which answers it in the form in which it is used. */
const taken =
  <S extends v.GenericSchema>(name: string, schema: S) =>
  (value: unknown): v.InferOutput<S> =>
    checked(schema, value, { ...argument, name })

export const takeWait = taken('options', wait)
export const takeChunk = taken('chunk', chunk)
export const takeLast = taken('last', last)
export const takeReservation = taken('destination', reservation)
export const takeProvision = taken('destination', provision)
export const takeDrain = taken('options', drain)

/**
 * Page lists by component. A list without a name is that of the only component of pages that the rank has.
 * @throws KvxError `ERR_KVX_INVALID_ARGUMENT`
 */
export function namedPages(
  { shape, place }: { shape: CacheShape; place: Place },
  pages: Int32Array | Readonly<Record<string, Int32Array>>,
): Readonly<Record<string, Int32Array>> {
  if (!(pages instanceof Int32Array)) return pages
  const names = shape.components
    .filter(
      ({ name, addressed }) => addressed === 'tokens' && Object.hasOwn(place.components, name),
    )
    .map(({ name }) => name)
  const [only, ...others] = names
  if (only !== undefined && others.length === 0) return { [only]: pages }
  throw new KvxError(
    'ERR_KVX_INVALID_ARGUMENT',
    `pages must be an object of page lists by component, as this rank has ${names.length === 0 ? 'none' : names.join(', ')}.`,
    { phase: 'reserve' },
  )
}
