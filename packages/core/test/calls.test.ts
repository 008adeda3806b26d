/** Is every argument of every public call checked, before anything is opened, taken or started? */
import { readdirSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { silentLog } from '@kvx/contract'
import * as core from '../src/index.ts'
import { makeRank } from '../src/share/index.ts'
import { Loopback } from './support/loopback.ts'
import { memoryFor, openLegs, openPair, smallCache, token } from './support/pair.ts'

const invalidArgument = 'ERR_KVX_INVALID_ARGUMENT'
const invalidOption = 'ERR_KVX_INVALID_OPTION'

/** Arguments that are wrong, and what is said of them: which, what is expected, and what came. */
type Wrong = readonly [args: readonly unknown[], says: RegExp]
interface Call {
  readonly call: (...args: never[]) => unknown
  readonly code: string
  readonly wrong: readonly Wrong[]
}

/** One argument at a time, in place of that of a call that is right. */
const instead = (right: object, changes: readonly (readonly [object, RegExp])[]) =>
  changes.map(([change, says]): Wrong => [[{ ...right, ...change }], says])

const noObjects: readonly Wrong[] = [
  [[], /^The options must be an object, got undefined\.$/],
  [[null], /^The options must be an object, got null\.$/],
  [[[]], /^The options must be an object, got an Array\.$/],
  [['text'], /^The options must be an object, got "text"\.$/],
]
const tokens: readonly (readonly [object, RegExp])[] = [
  [{ token: undefined }, /^The token must be a string, got undefined\./],
  [{ token: 'short' }, /^The token must have at least 16 bytes, got 5:/],
]

const { shape, place } = smallCache(8)
const [component] = shape.components
const [tensor] = component?.tensors ?? []
const [placed] = place.tensors
const rank = makeRank(shape.layers)
const regions = [1 << 20]
const withComponent = (change: object) => ({ ...shape, components: [{ ...component, ...change }] })
const withTensor = (change: object) => withComponent({ tensors: [{ ...tensor, ...change }] })
const shapes: readonly (readonly [unknown, RegExp])[] = [
  [{}, /^shape\.model must be a name of 1 to 200 characters, got undefined\.$/],
  [{ ...shape, model: 5 }, /^shape\.model must be a name .*, got 5\.$/],
  [{ ...shape, layer: 1 }, /^shape: there is no 'layer'\. Did you mean 'layers'\?$/],
  [{ ...shape, layers: 0 }, /^shape\.layers must be an integer from 1 on, got 0\.$/],
  [{ ...shape, settings: 'x' }, /^shape\.settings must be an object, got "x"\.$/],
  [{ ...shape, settings: { a: 1 } }, /^shape\.settings\.a must be a string .*, got 1\.$/],
  [{ ...shape, components: {} }, /^shape\.components must be an array of components, got an obj/],
  [withComponent({ name: '' }), /^shape\.components\[0\]\.name must be a name .*, got ""\.$/],
  [
    withComponent({ addressed: 'pages' }),
    /^shape\.components\[0\]\.addressed must be 'tokens' or 'request', got "pages"\.$/,
  ],
  [withComponent({ window: 0 }), /^shape\.components\[0\]\.window must be an integer from 1 on/],
  [withComponent({ tensors: [null] }), /^shape\.components\[0\]\.tensors\[0\] must be an object/],
  [
    withTensor({ dtype: undefined }),
    /^shape\.components\[0\]\.tensors\[0\]\.dtype must be a name /,
  ],
  [withTensor({ units: 1.5 }), /tensors\[0\]\.units must be an integer from 1 on, got 1\.5\.$/],
  [withTensor({ layer: 3 }), /^kv layer 3 k: layer must be from 0 to 2, as shape\.layers is 3\.$/],
  [withComponent({ tensors: [] }), /^shape must have 1 to 65536 tensors, got 0\.$/],
]
const noShapes: readonly (readonly [unknown, RegExp])[] = [
  [undefined, /^shape must be an object, got undefined\.$/],
  [null, /^shape must be an object, got null\.$/],
  ['m', /^shape must be an object, got "m"\.$/],
]
const placesWith = (change: object) => ({ ...place, ...change })
const places: readonly (readonly [unknown, RegExp])[] = [
  [{}, /^place\.components must be an object, got undefined\.$/],
  [placesWith({ components: { kv: 8 } }), /^place\.components\.kv must be an object, got 8\.$/],
  [
    placesWith({ components: { kv: { pageTokens: 4, pages: 2 ** 31 } } }),
    /^place\.components\.kv\.pages must be an integer from 1 to /,
  ],
  [placesWith({ tensors: {} }), /^place\.tensors must be an array of tensors, got an object\.$/],
  [
    placesWith({ tensors: [{ ...placed, order: 'DHN' }] }),
    /^place\.tensors\[0\]\.order must be 'NHD', 'HND' or 'HDN', got "DHN"\.$/,
  ],
  [
    placesWith({ tensors: place.tensors.slice(1) }),
    /^place lacks kv layer 0 k, which rank tp0\/pp0\/cp0\/dp0 holds\.$/,
  ],
]
const noPlaces: readonly (readonly [unknown, RegExp])[] = [
  [undefined, /^place must be an object, got undefined\.$/],
  ['m', /^place must be an object, got "m"\.$/],
]
const ranks: readonly (readonly [unknown, RegExp])[] = [
  [{ tp: 0.5 }, /^rank\.tp must be an integer from 0 on, got 0\.5\.$/],
  [{ ppSize: 2 ** 30 }, /^rank\.ppSize must be an integer from 1 to 4096, got 1073741824\.$/],
  [{ context: 'some' }, /^rank\.context must be 'all', 'contiguous' or \{ interleave: tokens \}, /],
  [{ stages: 3 }, /^rank\.stages must be an array of layer numbers, got 3\.$/],
  [{ tensor: 1 }, /^rank: there is no 'tensor'\. There are: tp, /],
]

const server = { host: '127.0.0.1', port: 0, token, log: silentLog }
const nowhere = 'tcp://127.0.0.1:1'
const record = {
  instance: 'prefill-a',
  incarnation: '0'.repeat(32),
  endpoint: nowhere,
  rank: makeRank(4),
  backend: 'shm',
}
const register = { bootstrap: nowhere, token, record }
const nothing = () => undefined
const watch = { bootstrap: nowhere, token, onRead: nothing, onFailed: nothing, log: silentLog }
const read = { bootstrap: nowhere, token, timeoutMs: 1_000 }
const sources: readonly (readonly [object, RegExp])[] = [
  ...tokens,
  [{ bootstrap: undefined }, /^bootstrap must be an address tcp:\/\/host:port, got undefined\.$/],
  [{ bootstrap: '127.0.0.1:1' }, /^bootstrap must be an address .*, got "127\.0\.0\.1:1"\.$/],
  [{ instance: '' }, /^instance must be a name of 1 to 200 characters, got ""\.$/],
]

const emptyPlan = {
  lanes: new Float64Array(0),
  groups: new Int32Array(0),
  blocks: new Int32Array(0),
}
const digestJob = {
  pageTokens: 1,
  tensors: new Float64Array(),
  keys: new BigUint64Array(),
  runs: new Int32Array(),
}

const pool = new core.PagePool(4)
/** Somebody else has it: what waits for pages would wait. */
const taken = pool.tryAllocate(4)
const leased = new core.PagePool(4)
const lease = leased.tryAllocate(4)

const open = {
  role: 'decode',
  backend: new Loopback().backend,
  token,
  shape,
  place,
  memory: [memoryFor({ shape, place })],
}
const memoryWith = (change: object) => ({
  memory: [{ ...memoryFor({ shape, place }), ...change }],
})

const calls: Record<string, Call> = {
  promptDigest: {
    call: core.promptDigest,
    code: invalidArgument,
    wrong: [
      ...[undefined, null, 'abc', 5, {}, { length: 1 }, Float64Array.of(1)].map((ids): Wrong => [
        [ids],
        /^tokenIds must be an array of token ids, an Int32Array or a Uint32Array, got /,
      ]),
      ...[1.5, 'a', -1, 2 ** 40, 2 ** 31, NaN, null, undefined, 1n, Symbol('x')].map(
        (id): Wrong => [
          [[7, id]],
          /^tokenIds\[1\] must be an integer from 0 to 2147483647, got .+\.$/,
        ],
      ),
      [[Uint32Array.of(2 ** 32 - 1)], /^tokenIds\[0\] must be .*, got 4294967295\.$/],
      [[Int32Array.of(-1)], /^tokenIds\[0\] must be .*, got -1\.$/],
      [[new Array(2)], /^tokenIds\[0\] must be .*, got undefined\.$/],
    ],
  },
  checkShape: {
    call: core.checkShape,
    code: invalidArgument,
    wrong: [...noShapes, ...shapes].map(([one, says]): Wrong => [[one], says]),
  },
  shapeFingerprint: {
    call: core.shapeFingerprint,
    code: invalidArgument,
    wrong: [...noShapes, ...shapes].map(([one, says]): Wrong => [[one], says]),
  },
  checkPlace: {
    call: core.checkPlace,
    code: invalidArgument,
    wrong: [
      ...[...noShapes, ...shapes].map(([one, says]): Wrong => [[one, rank, place, regions], says]),
      ...[...noPlaces, ...places].map(([one, says]): Wrong => [[shape, rank, one, regions], says]),
      [[shape, undefined, place, regions], /^rank must be an object, got undefined\.$/],
      [
        [shape, { ...rank, tp: 1 }, place, regions],
        /^rank: tp must be an integer from 0 to 0, got 1/,
      ],
      [[shape, rank, place], /^regionBytes must be an array of numbers of bytes, got undefined\.$/],
      [[shape, rank, place, [-1]], /^regionBytes\[0\] must be an integer from 0 on, got -1\.$/],
      [
        [shape, rank, place, [64]],
        /^kv layer \d [kv]: it ends at byte \d+ of region 0, which has 64/,
      ],
    ],
  },
  makeRank: {
    call: core.makeRank,
    code: invalidArgument,
    wrong: [
      [[], /^layers must be an integer from 1 on, got undefined\.$/],
      [[4, null], /^rank must be an object, got null\.$/],
      ...ranks.map(([one, says]): Wrong => [[4, one], says]),
      [[4, { tp: 2, tpSize: 2 }], /^rank: tp must be an integer from 0 to 1, got 2\.$/],
      [[4, { ppSize: 5 }], /^rank: stages must be 6 ascending layer numbers from 0 on, got /],
      [[4, { tpSize: 4_096, dpSize: 2 }], /^rank: an instance has at most 4096 ranks, got 8192\.$/],
    ],
  },
  dpRankOf: {
    call: core.dpRankOf,
    code: invalidArgument,
    wrong: [
      [[7, 2], /^room must be a bigint from 0n to 2n \*\* 64n - 1n, got 7\.$/],
      [[-1n, 2], /^room must be a bigint .*, got -1n\.$/],
      [[7n, 0], /^dpSize must be an integer from 1 to 4096, got 0\.$/],
    ],
  },
  digests: {
    call: core.digests,
    code: 'ERR_KVX_PLAN_INVALID',
    wrong: [
      [[], /: job must be an object\.$/],
      [[null, []], /: job must be an object\.$/],
      [[digestJob], /: memories must be an array\.$/],
      ...(
        [
          [{ pageTokens: '1' }, /: pageTokens must be an integer from 1 to 2\^53, got 1\.$/],
          [{ tensors: [] }, /: tensors must be a Float64Array\.$/],
          [{ keys: [] }, /: keys must be a BigUint64Array\.$/],
          [{ runs: undefined }, /: runs must be an Int32Array\.$/],
          [{ keys: BigUint64Array.of(1n) }, /: there must be one key per tensor, got 1 for 0\.$/],
        ] as const
      ).map(([change, says]): Wrong => [[{ ...digestJob, ...change }, []], says]),
    ],
  },
  eachCopy: {
    call: core.eachCopy,
    code: 'ERR_KVX_PLAN_INVALID',
    wrong: [
      [[], /: plan must be an object\.$/],
      [[null], /: plan must be an object\.$/],
      [[emptyPlan], /: copy must be a function\.$/],
      ...(
        [
          [{ lanes: [] }, /: lanes must be a Float64Array\.$/],
          [{ groups: undefined }, /: groups must be an Int32Array\.$/],
          [{ blocks: [0] }, /: blocks must be an Int32Array\.$/],
          [{ groups: Int32Array.of(1) }, /: groups must be rows of 3 numbers\.$/],
          [{ blocks: Int32Array.of(0, 1, 0, 0) }, /: a block names groups 0 to 1, there are 0\.$/],
          [{ blocks: Int32Array.of(0, 0, -1, 0) }, /: a block names lanes -1 to 0, there are 0\.$/],
        ] as const
      ).map(([change, says]): Wrong => [[{ ...emptyPlan, ...change }, () => undefined], says]),
    ],
  },
  loadBackend: {
    call: core.loadBackend,
    code: invalidArgument,
    wrong: [
      ...[undefined, null, 5, '', []].map((backend): Wrong => [
        [backend, { from: '/' }],
        /^backend must be a name or a Backend, got /,
      ]),
      [['shm'], /^options must be an object, got undefined\.$/],
      [['shm', {}], /^options\.from must be a string that is not empty, got undefined\.$/],
      [[open.backend, { from: 5 }], /^options\.from must be .*, got 5\.$/],
      [['shm', { from: '/', frm: 1 }], /^options: there is no 'frm'\. Did you mean 'from'\?$/],
    ],
  },
  PagePool: {
    call: (...args: never[]) => new core.PagePool(...(args as unknown as [number])),
    code: invalidArgument,
    wrong: [
      ...[undefined, null, '4', -1, 1.5, NaN, 2 ** 31].map((size): Wrong => [
        [size],
        /^size must be an integer from 0 to 2147483647, got /,
      ]),
      [[4, 30], /^timer must be a function, got 30\.$/],
    ],
  },
  'PagePool.tryAllocate': {
    call: pool.tryAllocate.bind(pool),
    code: invalidArgument,
    wrong: [undefined, '1', -1, 1.5, NaN].map((count) => [
      [count],
      /^count must be an integer from 0 to 2147483647, got /,
    ]),
  },
  'PagePool.allocate': {
    call: pool.allocate.bind(pool),
    code: invalidArgument,
    wrong: [
      ...[undefined, '1', -1, 1.5, NaN].map((count): Wrong => [
        [count],
        /^count must be an integer from 0 to 2147483647, got /,
      ]),
      ...['x', NaN, -1, null].map((timeoutMs): Wrong => [
        [1, { timeoutMs }],
        /^options\.timeoutMs must be milliseconds, 0 or more, got /,
      ]),
      [[1, { signal: 'x' }], /^options\.signal must be an AbortSignal, got "x"\.$/],
      [[1, { signal: {} }], /^options\.signal must be an AbortSignal, got an object\.$/],
      [[1, { timeout: 5 }], /^options: there is no 'timeout'\./],
      [[1, null], /^options must be an object, got null\.$/],
      [[1, 5], /^options must be an object, got 5\.$/],
    ],
  },
  'Lease.quarantine': {
    call: (until) => lease?.quarantine(until),
    code: invalidArgument,
    wrong: [undefined, null, 5, {}].map((until) => [[until], /^until must be a Promise, got /]),
  },
  'BootstrapServer.open': {
    call: core.BootstrapServer.open.bind(core.BootstrapServer),
    code: invalidOption,
    wrong: [
      ...noObjects,
      ...instead(server, [
        ...tokens,
        [{ log: undefined }, /^log must be a logger with debug, info, warn and error, got und/],
        [{ log: {} }, /^log must be a logger .*, got an object\.$/],
        [{ host: undefined }, /^host must be a host name or an IP address, got undefined\.$/],
        [{ host: 'a b' }, /^host must be a host name or an IP address, got "a b"\.$/],
        [{ port: undefined }, /^port must be an integer from 0 to 65535, got undefined\.$/],
        [{ port: 65_536 }, /^port must be an integer from 0 to 65535, got 65536\.$/],
        [{ port: '80' }, /^port must be an integer from 0 to 65535, got "80"\.$/],
        [{ prt: 1 }, /^The options: there is no 'prt'\. Did you mean 'port'\?$/],
      ]),
    ],
  },
  registerRank: {
    call: core.registerRank,
    code: invalidOption,
    wrong: [
      ...noObjects,
      ...instead(register, [
        ...sources.filter(([change]) => !('instance' in change)),
        [{ record: undefined }, /^record must be an object, got undefined\.$/],
        [{ record: { ...record, instance: 1 } }, /^record\.instance must be a name .*, got 1\.$/],
        [{ record: { ...record, incarnation: 'A' } }, /^record\.incarnation must be 32 lower-ca/],
        [{ record: { ...record, endpoint: 'x' } }, /^record\.endpoint must be an address .*"x"/],
        [{ record: { ...record, rank: {} } }, /^record\.rank\.tp must be .*, got undefined\.$/],
        [
          { record: { ...record, rank: { ...makeRank(4), tp: 1 } } },
          /^record\.rank: tp must be an integer from 0 to 0, got 1\.$/,
        ],
        [{ record: { ...record, host: 'x' } }, /^record: there is no 'host'\./],
        [{ leaseMs: 49 }, /^leaseMs must be an integer from 50 to 600000, got 49\.$/],
        [{ leaseMs: 600_001 }, /^leaseMs must be an integer from 50 to 600000, got 600001\.$/],
        [{ leaseMs: 'x' }, /^leaseMs must be an integer from 50 to 600000, got "x"\.$/],
        [{ timeoutMs: 'x' }, /^timeoutMs must be milliseconds, 0 or more, got "x"\.$/],
        [{ timeoutMs: NaN }, /^timeoutMs must be milliseconds, 0 or more, got NaN\.$/],
        [{ signal: 'x' }, /^signal must be an AbortSignal, got "x"\.$/],
        [{ onLost: 5 }, /^onLost must be a function, got 5\.$/],
        [{ log: 5 }, /^log must be a logger .*, got 5\.$/],
      ]),
    ],
  },
  watchInstance: {
    call: core.watchInstance,
    code: invalidOption,
    wrong: [
      ...noObjects,
      ...instead(watch, [
        ...sources,
        [{ onRead: undefined }, /^onRead must be a function, got undefined\.$/],
        [{ onFailed: 'x' }, /^onFailed must be a function, got "x"\.$/],
        [{ log: undefined }, /^log must be a logger .*, got undefined\.$/],
        [{ waitMs: -1 }, /^waitMs must be an integer from 1 to 60000, got -1\.$/],
        [{ waitMs: 60_001 }, /^waitMs must be an integer from 1 to 60000, got 60001\.$/],
        [{ silentMs: NaN }, /^silentMs must be milliseconds, 0 or more, got NaN\.$/],
        [{ timeoutMs: 1 }, /^The options: there is no 'timeoutMs'\./],
      ]),
    ],
  },
  readInstance: {
    call: core.readInstance,
    code: invalidOption,
    wrong: [
      ...noObjects,
      ...instead(read, [
        ...sources,
        [{ timeoutMs: undefined }, /^timeoutMs must be milliseconds, 0 or more, got undefined\.$/],
        [{ timeoutMs: -1 }, /^timeoutMs must be milliseconds, 0 or more, got -1\.$/],
        [{ signal: 'x' }, /^signal must be an AbortSignal, got "x"\.$/],
        [{ waitMs: -1 }, /^The options: there is no 'waitMs'\./],
      ]),
    ],
  },
  neededPages: {
    call: core.neededPages,
    code: invalidArgument,
    wrong: [
      [[undefined, { tokens: 4 }], /^cache must be an object, got undefined\.$/],
      [[{}, { tokens: 4 }], /^cache\.shape must be an object, got undefined\.$/],
      [[smallCache(8), {}], /^prompt\.tokens must be an integer from 1 on, got undefined\.$/],
      [
        [smallCache(8), { tokens: 4, prefixTokens: 5 }],
        /^prompt\.prefixTokens must be at most 4, the tokens of the prompt, got 5\.$/,
      ],
    ],
  },
  settingsFor: {
    call: core.settingsFor,
    code: invalidOption,
    wrong: [
      [['both', {}, 'limit'], /^role must be 'prefill' or 'decode', got "both"\.$/],
      [['decode', null, 'limit'], /^given must be an object, got null\.$/],
      [['decode', {}, 'x'], /^what must be 'deadline' or 'limit', got "x"\.$/],
    ],
  },
  checkToken: {
    call: core.checkToken,
    code: invalidOption,
    wrong: [
      [[undefined], /^The token must be a string, got undefined\./],
      [['short'], /^The token must have at least 16 bytes, got 5:/],
    ],
  },
  'KVManager.open of a decode rank': {
    call: core.KVManager.open,
    code: invalidOption,
    wrong: [
      ...noObjects,
      ...instead(open, [
        ...tokens,
        ...noShapes.map(([one, says]) => [{ shape: one }, says] as const),
        ...noPlaces.map(([one, says]) => [{ place: one }, says] as const),
        ...ranks.map(([one, says]) => [{ rank: one }, says] as const),
        [memoryWith({ address: 5 }), /^memory\[0\]\.address must be a bigint .*, got 5\.$/],
        [memoryWith({ bytes: -1 }), /^memory\[0\]\.bytes must be an integer from 1 on, got -1\.$/],
        [memoryWith({ kind: 'gpu' }), /^memory\[0\]\.kind must be 'cpu', 'cuda' or 'hip', got "g/],
        [memoryWith({ device: 0.5 }), /^memory\[0\]\.device must be an integer from 0 on, got 0.5/],
        [memoryWith({ fd: 'x' }), /^memory\[0\]\.fd must be an integer from 0 on, got "x"\.$/],
        [memoryWith({ view: 1 }), /^memory\[0\]\.view must be a function, got 1\.$/],
        [{ host: '127.0.0.1' }, /^There is no 'host' for decode: it is an option of prefill\.$/],
        [{ bootstrap: nowhere }, /^There is no 'bootstrap' for decode: it is an option of prefill/],
        [
          { deadlines: { transfer: 1 } },
          /^The deadline 'transfer' is one of prefill, and decode does not have it\. There are: hello,/,
        ],
        [
          { limits: { parkedPerPeer: 1 } },
          /^The limit 'parkedPerPeer' is one of prefill, and decode does not have it\. There are: aux/,
        ],
        [{ deadlines: { hello: 'x' } }, /^The deadline 'hello' must be a positive number, got "x"/],
        [
          { limits: { quarantineShare: 2 } },
          /^The limit 'quarantineShare' can be 1 at most, got 2/,
        ],
        [{ limits: { toString: 2 } }, /^There is no limit 'toString'\. There are: /],
      ]),
    ],
  },
  'KVManager.open of a prefill rank': {
    call: core.KVManager.open,
    code: invalidOption,
    wrong: instead({ ...open, role: 'prefill', bootstrap: nowhere }, [
      [{ verifyKV: true }, /^There is no 'verifyKV' for prefill: it is an option of decode\.$/],
      [{ verifyKV: false }, /^There is no 'verifyKV' for prefill: it is an option of decode\.$/],
      [{ bootstrap: undefined }, /^A prefill manager needs 'bootstrap'/],
      ...['probe', 'reserve', 'ping'].map(
        (name) =>
          [
            { deadlines: { [name]: 1 } },
            new RegExp(`^The deadline '${name}' is one of decode, and prefill does not have it\\.`),
          ] as const,
      ),
    ]),
  },
}

/** What of it cannot be is said with the code of an argument. */
calls['KVManager.open of a cache'] = {
  call: core.KVManager.open,
  code: invalidArgument,
  wrong: [
    ...instead(
      open,
      shapes.map(([one, says]) => [{ shape: one as object }, says] as const),
    ),
    ...instead(
      open,
      places.map(([one, says]) => [{ place: one as object }, says] as const),
    ),
  ],
}

/** What a call that opens something would leave behind. */
const held = () => ({
  resources: process.getActiveResourcesInfo().sort(),
  files: readdirSync('/proc/self/fd').length,
  pages: [pool.counts(), leased.counts()],
})

/** What the call throws, or rejects with. */
async function failureOf(call: Call['call'], args: readonly unknown[]): Promise<unknown> {
  try {
    await call(...(args as never[]))
  } catch (error) {
    return error
  }
  return 'nothing was wrong'
}

describe.each(Object.entries(calls))('%s', (_, { call, code, wrong }) => {
  test.each(wrong)('refuses %o by %s, and nothing stays open or taken', async (args, says) => {
    const before = held()
    const error = await failureOf(call, args)
    expect(error).toMatchObject({
      name: 'KvxError',
      code,
      message: expect.stringMatching(says) as string,
    })
    expect(held()).toEqual(before)
  })
})

test('a quarantine that was refused has not ended the lease', () => {
  lease?.release()
  expect(leased.counts()).toEqual({ free: 4, leased: 0, quarantined: 0 })
  taken?.release()
})

test.each([undefined, null, 5, '', '[::1]', 'a b'])('%s is no host', (text) => {
  expect(core.isHost(text)).toBe(false)
})

test('every function and class that is exported has a row here', () => {
  /** They answer for any value, and make what they are given an error. */
  const predicates = ['isHost', 'isBackend', 'isErrorCode', 'isKvxError', 'systemReason']
  const elsewhere = ['KvxError', 'toKvxError']
  const callable = Object.entries(core)
    .filter(([, value]) => typeof value === 'function')
    .map(([name]) => name)
  const rows = Object.keys(calls).map((name) => name.split('.')[0])
  expect(callable.filter((name) => ![...rows, ...predicates, ...elsewhere].includes(name))).toEqual(
    [],
  )
})

describe('a request', () => {
  let side: Awaited<ReturnType<typeof openPair>>
  beforeAll(async () => {
    side = await openPair()
  })
  afterAll(() => side.close())
  const prompt = { tokens: 4, digest: core.promptDigest([1, 2, 3, 4]) }
  let nextRoom = 2n

  test.each<[string, string]>([
    ['probe', "The deadline 'probe' is one of decode, and prefill does not have it."],
    ['ping', "The deadline 'ping' is one of decode, and prefill does not have it."],
    ['drain', "The deadline 'drain' is one of the manager, and a request has none of its own."],
    ['helo', "There is no deadline 'helo'."],
  ])('cannot be sent with the deadline %s, which would count for nothing', (name, says) => {
    const send = () => side.prefill.send(1n, { ...prompt, deadlines: { [name]: 1_000 } })
    expect(send).toThrow(
      expect.objectContaining({
        code: invalidOption,
        message: expect.stringContaining(says) as string,
      }),
    )
  })

  test.each<[string, string]>([
    ['transfer', "The deadline 'transfer' is one of prefill, and decode does not have it."],
    ['peerSilent', "The deadline 'peerSilent' is one of the manager, and a request has none"],
  ])('cannot be received with the deadline %s, which would count for nothing', (name, says) => {
    const deadlines = { [name]: 1_000 }
    const receive = () => side.decode.receive(1n, { ...prompt, from: side.from, deadlines })
    expect(receive).toThrow(
      expect.objectContaining({
        code: invalidOption,
        message: expect.stringContaining(says) as string,
      }),
    )
  })

  test.each([5, null, {}, [], Symbol('x'), new TypeError('not one of kvx')])(
    'is aborted whatever the reason is: %o',
    async (reason) => {
      const room = nextRoom++
      const { sender, receiver } = await openLegs(side, room, prompt, [3])
      sender.abort(reason as never)
      expect(sender.error).toMatchObject({ code: 'ERR_KVX_INTERNAL', cause: reason })
      await expect(receiver.done).rejects.toMatchObject({ code: 'ERR_KVX_INTERNAL' })
      await Promise.all([sender.settled, receiver.settled])
    },
  )
})
