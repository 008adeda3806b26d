/** What each public call of a manager takes. What fits together, and what the present state allows, is seen to elsewhere. */
import * as v from 'valibot'
import {
  bytes,
  checked,
  exactly,
  integer,
  isObject,
  pageList,
  signal,
  such,
  text,
  truth,
} from '../arguments.ts'
import { isHost, parseEndpoint } from '../control/endpoint.ts'
import { checkToken } from '../control/keys.ts'
import { maxNameLength } from '../protocol/index.ts'
import type { KVManagerOptions, ReceiveRequest, SendRequest } from './types.ts'

const natural = integer(0)
const positive = integer(1)
const settings = v.optional(such<object>('an object', isObject))
const endpoint = such<string>(
  'an address tcp://host:port',
  (value) => typeof value === 'string' && (parseEndpoint(value)?.port ?? 0) > 0,
)
const name = such<string>(
  `a name of 1 to ${String(maxNameLength)} characters`,
  (value) => typeof value === 'string' && value !== '' && value.length <= maxNameLength,
)
const everywhere = ['0.0.0.0', '::']
const range = such<readonly [number, number]>(
  'two integers [first, end]',
  (value) => Array.isArray(value) && value.length === 2 && value.every(Number.isSafeInteger),
)

const memory = such<object>(
  'memory: { address: bigint, bytes, kind, device }',
  (value) =>
    isObject(value) &&
    typeof (value as { address?: unknown }).address === 'bigint' &&
    Number.isSafeInteger((value as { bytes?: unknown }).bytes) &&
    typeof (value as { kind?: unknown }).kind === 'string' &&
    Number.isSafeInteger((value as { device?: unknown }).device),
)

const layout = exactly({
  model: name,
  settings: v.optional(
    v.record(
      v.string(),
      such<string>('a string', (x) => typeof x === 'string'),
    ),
  ),
  pageTokens: positive,
  layers: positive,
  heads: positive,
  pages: v.pipe(such<object>('an object', isObject), v.record(v.string(), positive)),
  tensors: v.array(
    exactly({
      component: name,
      layer: natural,
      part: v.picklist(['k', 'v', 'latent'], "'k', 'v' or 'latent'"),
      dtype: name,
      region: natural,
      base: natural,
      pageBytes: positive,
      heads: range,
      headBytes: positive,
      order: v.picklist(['token-major', 'head-major'], "'token-major' or 'head-major'"),
    }),
    'an array of tensors',
  ),
})

const rank = exactly({
  tp: v.optional(natural),
  tpSize: v.optional(positive),
  pp: v.optional(natural),
  ppSize: v.optional(positive),
  cp: v.optional(natural),
  cpSize: v.optional(positive),
  dp: v.optional(natural),
  dpSize: v.optional(positive),
  stages: v.optional(v.array(natural, 'an array of layer numbers')),
})

const openOptions = exactly({
  role: v.picklist(['prefill', 'decode'], "'prefill' or 'decode'"),
  backend: such<unknown>(
    'a name or a Backend',
    (value) => (typeof value === 'string' && value !== '') || isObject(value),
  ),
  backendOptions: settings,
  from: v.optional(text),
  layout,
  memory: v.pipe(
    v.array(memory, 'an array of memories'),
    v.minLength(1, 'an array of at least one memory'),
  ),
  token: v.unknown(),
  host: v.optional(
    v.pipe(
      such<string>(
        'a host name or an IP address',
        (value) => typeof value === 'string' && isHost(value),
      ),
      v.check(
        (host) => !everywhere.includes(host),
        'the name or address under which peers reach this machine, as it is told to them',
      ),
    ),
  ),
  bootstrap: v.optional(endpoint),
  instance: v.optional(name),
  rank: v.optional(rank),
  verifyKV: v.optional(truth),
  deadlines: settings,
  limits: settings,
  log: v.optional(
    such<object>(
      'a logger with debug, info, warn and error',
      (value) =>
        isObject(value) &&
        ['debug', 'info', 'warn', 'error'].every(
          (level) => typeof (value as Record<string, unknown>)[level] === 'function',
        ),
    ),
  ),
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
  deadlines: settings,
}
const requestOf = {
  send: exactly(sendEntries),
  receive: exactly({ ...sendEntries, from: endpoint }),
}
const room = such<bigint>(
  'a bigint from 0n to 2n ** 64n - 1n',
  (value) => typeof value === 'bigint' && value >= 0n && value < 1n << 64n,
)

/** @throws KvxError `ERR_KVX_INVALID_ARGUMENT` */
export function checkLeg(
  call: 'send' | 'receive',
  given: { room: bigint; request: SendRequest | ReceiveRequest },
): void {
  checked(room, given.room, { ...argument, name: 'room' })
  checked(requestOf[call], given.request, { ...argument, name: 'request' })
}

const wait = v.optional(exactly({ signal: v.optional(signal) }), {})
const state = v.optional(
  v.pipe(
    such<Record<string, unknown>>('an object of page lists by component', isObject),
    v.record(v.string(), pageList),
  ),
  {},
)
const chunk = exactly({ start: natural, pages: pageList, layers: v.optional(range) })
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
const last = v.optional(exactly({ state, aux: v.optional(aux, {}) }), {})
const reservation = exactly({
  pages: v.optional(pageList),
  prefixTokens: v.optional(natural, 0),
  state,
})
const provision = exactly({ pages: pageList, state })
const drain = v.optional(
  exactly({
    deadlineMs: v.optional(
      such<number>('milliseconds, 0 or more', (value) => typeof value === 'number' && value >= 0),
    ),
  }),
  {},
)

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
