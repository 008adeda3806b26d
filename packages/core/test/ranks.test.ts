/** Instances of several ranks: real managers, sockets and bootstrap; the engine copies within the process. */
import { setTimeout } from 'node:timers/promises'
import { afterEach, expect, test } from 'vitest'
import { silentLog } from '@kvx/contract'
import { BootstrapServer } from '../src/bootstrap/index.ts'
import {
  KVManager,
  type DecodeManager,
  type PrefillManager,
  KVPoll,
  type Aux,
  type Reserved,
} from '../src/manager/index.ts'
import type { Place } from '../src/place/index.ts'
import { promptDigest, type CacheShape, type ComponentShape } from '../src/shape/index.ts'
import { makeRank, type Rank } from '../src/share/index.ts'
import { Loopback } from './support/loopback.ts'
import {
  fillCache,
  firstOf,
  isHeld,
  keep,
  pageCount,
  tokensHeld,
  wrongBytes,
  type Keeping,
} from './support/ranks.ts'

const token = 'a token for tests'

/** Components of a model of so many layers. */
const every = <T>(layers: readonly number[], make: (layer: number) => T[]) => layers.flatMap(make)
const range = (first: number, end: number) =>
  Array.from({ length: end - first }, (_, i) => first + i)
const f16 = { dtype: 'f16', elementBytes: 2 }

const kv = (layers: readonly number[], units = 4): ComponentShape => ({
  name: 'kv',
  addressed: 'tokens',
  tensors: every(layers, (layer) => [
    { layer, part: 'k', units, unitBytes: 8, ...f16 },
    { layer, part: 'v', units, unitBytes: 8, ...f16 },
  ]),
})
/** MLA: a latent and an index that every rank holds whole. */
const latent = (layers: readonly number[]): ComponentShape => ({
  name: 'mla',
  addressed: 'tokens',
  tensors: every(layers, (layer) => [
    { layer, part: 'latent', units: 1, unitBytes: 24, ...f16 },
    { layer, part: 'index', dtype: 'fp8_e4m3', units: 1, unitBytes: 5 },
  ]),
})
const scales = (layers: readonly number[]): ComponentShape => ({
  name: 'scales',
  addressed: 'tokens',
  tensors: every(layers, (layer) => [
    { layer, part: 's', dtype: 'f32', units: 4, unitBytes: 4, tokensPerRow: 2 },
  ]),
})
const windowed = (layers: readonly number[], window: number): ComponentShape => ({
  ...kv(layers),
  name: 'swa',
  window,
})
const mamba = (layers: readonly number[]): ComponentShape => ({
  name: 'mamba',
  addressed: 'request',
  tensors: every(layers, (layer) => [
    { layer, part: 'conv', units: 8, unitBytes: 4, rows: 3, ...f16 },
    { layer, part: 'ssm', units: 4, unitBytes: 16, dtype: 'f32', elementBytes: 4 },
  ]),
})
const model = (layers: number, ...components: ComponentShape[]): CacheShape => ({
  model: 'ranks',
  layers,
  components,
})
const plain = model(4, kv(range(0, 4)))

const open: { close(): Promise<void> }[] = []
afterEach(async () => {
  for (const one of open.splice(0).reverse()) await one.close()
})

const spread = (layers: number, sizes: Partial<Rank>): Rank[] => {
  const one = makeRank(layers, sizes)
  return range(0, one.dpSize).flatMap((dp) =>
    range(0, one.ppSize).flatMap((pp) =>
      range(0, one.cpSize).flatMap((cp) =>
        range(0, one.tpSize).map((tp) => ({ ...one, tp, pp, cp, dp })),
      ),
    ),
  )
}

interface Case {
  readonly shape?: CacheShape
  readonly prefill?: Partial<Rank>
  readonly decode?: Partial<Rank>
  /** How each side keeps its caches. */
  readonly from?: Keeping
  readonly to?: Keeping
  readonly tokens?: number
  readonly prefix?: number
  /** Where the chunks end; the last one at the end of the prompt. */
  readonly cuts?: readonly number[]
  /** The data-parallel rank of prefill that computes it, and how each side states that. */
  readonly at?: {
    readonly dp: number
    readonly sent?: number | 'published'
    readonly asked?: number | 'published'
  }
  /** A context-parallel rank names only the stretches that it has, not whole chunks. */
  readonly own?: boolean
  /** In which order the layers of each chunk are written. */
  readonly layers?: readonly (readonly [number, number])[]
}

const pageTokens = 4
const defaults = { pageTokens }

async function instances({
  shape = plain,
  prefill = {},
  decode = {},
  from = defaults,
  to = defaults,
}: Case) {
  const engine = new Loopback()
  const bootstrap = await BootstrapServer.open({
    host: '127.0.0.1',
    port: 0,
    token,
    log: silentLog,
  })
  open.push(bootstrap)
  const start = async <R extends 'prefill' | 'decode'>(role: R, rank: Rank) => {
    const kept = keep(shape, rank, role === 'prefill' ? from : to)
    const common = {
      backend: engine.backend,
      token,
      shape,
      place: kept.place,
      memory: [kept.memory],
      instance: `${role}-a`,
      rank,
    }
    const manager = (await (role === 'prefill'
      ? KVManager.open({ ...common, role: 'prefill', bootstrap: bootstrap.address })
      : KVManager.open({ ...common, role: 'decode' }))) as R extends 'prefill'
      ? PrefillManager
      : DecodeManager
    open.push(manager)
    return { rank, ...kept, manager }
  }
  const all = <R extends 'prefill' | 'decode'>(role: R, ranks: Rank[]) =>
    Promise.all(ranks.map((rank) => start(role, rank)))
  return {
    from: bootstrap.address,
    engine,
    shape,
    start,
    prefills: await all('prefill', spread(shape.layers, prefill)),
    decodes: await all('decode', spread(shape.layers, decode)),
  }
}

type Sides = Awaited<ReturnType<typeof instances>>
type Side = Pick<Sides['prefills'][number], Exclude<keyof Sides['prefills'][number], 'manager'>>

/** Different pages on each rank, in no order. */
const shuffled = (count: number, salt: number) =>
  range(0, count).map((i) => (i * 7 + salt * 11 + 3) % 40)
const promptOf = (tokens: number) => ({ tokens, digest: promptDigest(range(0, tokens)) })

/** Lists of all components that a rank holds: of pages those of the tokens from `first` on, of slots one. */
function listsOf(
  shape: CacheShape,
  { rank, place }: { rank: Rank; place: Place },
  tokens: number,
  first: (component: ComponentShape) => number,
): Record<string, number[]> {
  const salt = rank.tp + 3 * rank.pp + 5 * rank.cp
  return Object.fromEntries(
    shape.components
      .filter((component) => isHeld(rank, component))
      .map((component) => {
        const { pageTokens: size } = place.components[component.name]!
        if (size === undefined) return [component.name, [(salt + 2) % 6]]
        return [
          component.name,
          shuffled(pageCount(rank, tokens, size, [first(component), tokens]), salt),
        ]
      }),
  )
}

const isPaged = (shape: CacheShape, name: string) =>
  shape.components.find((component) => component.name === name)?.addressed === 'tokens'

function split(shape: CacheShape, lists: Record<string, number[]>) {
  const entries = Object.entries(lists)
  return {
    pages: Object.fromEntries(entries.filter(([name]) => isPaged(shape, name))),
    state: Object.fromEntries(entries.filter(([name]) => !isPaged(shape, name))),
  }
}

/** The sending legs of a request. */
function sendLegs({ shape, prefills }: Sides, room: bigint, { tokens = 12, at }: Case = {}) {
  const { dp = 0, sent } = at ?? {}
  const prompt = { ...promptOf(tokens), ...(sent !== undefined && { dpRank: sent }) }
  return prefills
    .filter(({ rank }) => rank.dp === dp)
    .map((side) => {
      const lists = listsOf(shape, side, tokens, () => 0)
      fillCache(shape, side.rank, side, lists, tokens)
      return { sender: side.manager.send(room, prompt), side, lists }
    })
}

/** Both sides of a request; decode has reserved. */
function legs(sides: Sides, room: bigint, given: Case = {}) {
  const { shape, decodes, from } = sides
  const { tokens = 12, prefix = 0, at: { asked } = {} } = given
  const prompt = { ...promptOf(tokens), ...(asked !== undefined && { dpRank: asked }) }
  const senders = sendLegs(sides, room, given)
  const receivers = decodes.map((side) => {
    const lists = listsOf(shape, side, tokens, firstOf(tokens, prefix))
    return { receiver: side.manager.receive(room, { ...prompt, from }), side, lists }
  })
  const reserve = () =>
    Promise.all(
      receivers.map(({ receiver, lists }) =>
        receiver.reserve({ ...split(shape, lists), prefixTokens: prefix }),
      ),
    )
  return { senders, receivers, reserve }
}

/** Pages of a rank that hold any of these tokens: all of them, also those that nobody needs. */
function pagesOf(
  { rank, place }: Side,
  name: string,
  list: readonly number[],
  tokens: number,
  [first, end]: readonly [number, number],
): number[] {
  const size = place.components[name]?.pageTokens ?? 1
  const before = pageCount(rank, tokens, size, [0, end])
  return list.slice(before - pageCount(rank, tokens, size, [first, end]), before)
}

/** Of each chunk the tokens that a rank has, as ranges. */
function stretchesOf(held: readonly number[], chunks: readonly (readonly [number, number])[]) {
  return chunks.flatMap(([first, end]) =>
    held
      .filter((token) => token >= first && token < end)
      .reduce<[number, number][]>((all, token) => {
        const last = all.at(-1)
        if (last?.[1] === token) last[1]++
        else all.push([token, token + 1])
        return all
      }, []),
  )
}

async function sendAll(
  shape: CacheShape,
  { senders }: Pick<ReturnType<typeof legs>, 'senders'>,
  { tokens = 12, cuts = [4], layers = [[0, shape.layers]], own = false }: Case = {},
) {
  return Promise.all(
    senders.map(async ({ sender, side, lists }) => {
      const reserved = await sender.reserved()
      const { pages, state } = split(shape, lists)
      const ends = [...cuts, tokens]
      const chunks = ends.map((end, i) => [ends[i - 1] ?? 0, end] as const)
      const { pageTokens = 1 } = Object.values(side.place.components)[0] ?? {}
      const ranges = own ? stretchesOf(tokensHeld(side.rank, tokens, pageTokens), chunks) : chunks
      for (const [first, end] of ranges) {
        for (const some of layers) {
          const of = Object.entries(pages).map(([name, list]) => [
            name,
            pagesOf(side, name, list, tokens, [first, end]),
          ])
          await sender.write({
            tokens: [first, end],
            pages: Object.fromEntries(of) as Record<string, number[]>,
            layers: some,
          })
        }
      }
      const { tp, pp, cp, ppSize } = side.rank
      const samples = tp === 0 && cp === 0 && pp === ppSize - 1
      const summary = await sender.finish({ state, aux: samples ? { firstToken: 11 } : {} })
      return { reserved, summary }
    }),
  )
}

/** One request; every byte that decode needs has to be right, and no other page touched. */
async function exchange(
  sides: Sides,
  given: Case,
  room = 1n,
): Promise<{ sent: { reserved: Reserved }[]; done: { aux: Aux }[] }> {
  const { shape } = sides
  const { tokens = 12, prefix = 0 } = given
  const { senders, receivers, reserve } = legs(sides, room, given)
  await reserve()
  const sent = await sendAll(shape, { senders }, given)
  const done = await Promise.all(receivers.map(({ receiver }) => receiver.done))
  for (const { side, lists } of receivers) {
    const wrong = wrongBytes(shape, side.rank, side, lists, { tokens, prefix })
    expect({ rank: side.rank, wrong }).toEqual({ rank: side.rank, wrong: [] })
  }
  // The rank that samples tells its own decode ranks.
  expect(done.some(({ aux }) => aux.firstToken === 11)).toBe(true)
  const polls = [...senders.map(({ sender }) => sender), ...receivers.map((one) => one.receiver)]
  expect(Math.min(...polls.map((one) => one.poll()))).toBe(KVPoll.Success)
  await Promise.all(polls.map((one) => one.settled))
  return { sent, done }
}

const hnd: Keeping = { pageTokens, order: () => 'HND', padding: 8 }
const turned: Keeping = { pageTokens, order: (part) => (part === 'v' ? 'HDN' : 'NHD') }
const gpt = model(6, { ...kv([0, 2, 4]) }, windowed([1, 3, 5], 7))
const everything = model(
  6,
  kv([0, 1]),
  scales([0, 1]),
  windowed([2, 3], 6),
  mamba([2, 3]),
  { ...kv([4, 5], 2), name: 'draft' },
  latent([4, 5]),
)

test.each<[string, Case]>([
  ['one to one', {}],
  ['two stages to one', { prefill: { ppSize: 2 } }],
  ['one to two stages', { decode: { ppSize: 2 } }],
  [
    'stages cut differently',
    {
      prefill: { ppSize: 2, stages: [0, 1, 4] },
      decode: { ppSize: 3, stages: [0, 2, 3, 4] },
    },
  ],
  ['two tensor ranks to one', { prefill: { tpSize: 2 } }],
  ['one to two tensor ranks', { decode: { tpSize: 2 } }],
  ['four tensor ranks to two', { prefill: { tpSize: 4 }, decode: { tpSize: 2 } }],
  ['two tensor ranks to four', { prefill: { tpSize: 2 }, decode: { tpSize: 4 } }],
  ['two to two, both ways cut', { prefill: { tpSize: 2 }, decode: { ppSize: 2 } }],
  [
    'two stages of two tensor ranks to two tensor ranks',
    { prefill: { ppSize: 2, tpSize: 2 }, decode: { tpSize: 2 } },
  ],
  [
    'one to four with two heads, which two ranks each hold',
    { shape: model(4, kv(range(0, 4), 2)), decode: { tpSize: 4 } },
  ],
  [
    'eight ranks with four heads, of which half hold copies, to two',
    { prefill: { tpSize: 8 }, decode: { tpSize: 2 } },
  ],
  [
    'a replicated latent with index, from eight ranks to four',
    { shape: model(4, latent(range(0, 4))), prefill: { tpSize: 8 }, decode: { tpSize: 4 } },
  ],
  [
    'replicated tensors beside sharded ones, from four ranks to two',
    {
      shape: model(4, kv(range(0, 4)), latent(range(0, 4))),
      prefill: { tpSize: 4 },
      decode: { tpSize: 2 },
    },
  ],
  [
    'a latent of one layer from four ranks to one, so that three have nothing to send',
    { shape: model(1, latent([0])), prefill: { tpSize: 4 } },
  ],
  ['heads before tokens, and pages with gaps between them', { to: hnd }],
  ['values by elements on one side', { from: turned, to: hnd }],
  [
    'values by elements, from four ranks to two',
    { from: turned, to: hnd, prefill: { tpSize: 4 }, decode: { tpSize: 2 } },
  ],
  ['pages of 4 to pages of 16', { to: { pageTokens: 16 }, tokens: 37, cuts: [16] }],
  ['pages of 16 to pages of 4', { from: { pageTokens: 16 }, tokens: 37, cuts: [16] }],
  ['pages of 4 to pages of 6', { to: { pageTokens: 6 }, tokens: 29, cuts: [8] }],
  [
    'pages of 16 to pages of 4 with a prefix, from two ranks to four',
    {
      ...{ from: { pageTokens: 16 }, tokens: 37, prefix: 8, cuts: [16] },
      ...{ prefill: { tpSize: 2 }, decode: { tpSize: 4 } },
    },
  ],
  ['chunks that are cut in the middle of a page', { tokens: 18, cuts: [3, 5, 11] }],
  ['chunks of one token', { tokens: 6, cuts: [1, 2, 3, 4, 5] }],
  [
    'chunks that are cut in the middle of a page of either size',
    { to: { pageTokens: 8 }, tokens: 21, cuts: [3, 5, 11, 13] },
  ],
  [
    'layers as they are ready, in any order',
    {
      layers: [
        [3, 4],
        [0, 1],
        [1, 3],
      ],
      tokens: 10,
      cuts: [4],
    },
  ],
  [
    'layers in any order and chunks in the middle of a page',
    {
      layers: [
        [2, 4],
        [0, 2],
      ],
      tokens: 10,
      cuts: [3],
    },
  ],
  ['a prefix of one page', { prefix: 4 }],
  ['a window that begins in the middle of a page', { shape: gpt, tokens: 21, cuts: [5, 13] }],
  [
    'a window from four ranks to two',
    {
      ...{ shape: gpt, tokens: 21, cuts: [12], prefill: { tpSize: 4 }, decode: { tpSize: 2 } },
    },
  ],
  [
    'a window that is longer than the prompt, with a prefix',
    { shape: gpt, tokens: 6, prefix: 4, cuts: [4] },
  ],
  [
    'the state of Mamba from two ranks to four',
    {
      shape: model(4, kv([0, 1]), mamba([2, 3])),
      ...{ prefill: { tpSize: 2 }, decode: { tpSize: 4 } },
    },
  ],
  [
    'the state of Mamba from four ranks to one',
    { shape: model(4, kv([0, 1]), mamba([2, 3])), prefill: { tpSize: 4 } },
  ],
  [
    'everything that there is, from two ranks to two stages',
    {
      ...{ shape: everything, tokens: 22, cuts: [5, 12], prefix: 4 },
      ...{
        prefill: { tpSize: 2 },
        decode: { ppSize: 2 },
        layers: [
          [3, 6],
          [0, 3],
        ],
      },
    },
  ],
  [
    'two context-parallel ranks, each with a run of pages, to one',
    { prefill: { cpSize: 2, context: 'contiguous' }, tokens: 21, cuts: [9] },
  ],
  [
    'four context-parallel ranks with tokens in turn to two',
    {
      prefill: { cpSize: 4, context: { interleave: 1 } },
      decode: { cpSize: 2, context: { interleave: 1 } },
      ...{ tokens: 37, cuts: [16] },
    },
  ],
  [
    'four context-parallel ranks with tokens in turn, each of which names only its own, to two',
    {
      prefill: { cpSize: 4, context: { interleave: 1 } },
      decode: { cpSize: 2, context: { interleave: 1 } },
      ...{ tokens: 37, cuts: [16], own: true },
    },
  ],
  [
    'three context-parallel ranks with stretches in turn, each of which names only its own, after a prefix',
    {
      prefill: { cpSize: 3, context: { interleave: 2 } },
      ...{ tokens: 40, cuts: [7, 23], prefix: 8, own: true },
    },
  ],
  [
    'two context-parallel ranks with stretches in turn to one with other pages',
    {
      prefill: { cpSize: 2, context: { interleave: 4 } },
      ...{ to: { pageTokens: 8 }, tokens: 27, cuts: [10] },
    },
  ],
  [
    'one to two context-parallel ranks with runs of pages',
    { decode: { cpSize: 2, context: 'contiguous' }, tokens: 21, cuts: [9] },
  ],
  [
    'two context-parallel ranks that both have all tokens and share the sending',
    { prefill: { cpSize: 2, context: 'all' }, decode: { tpSize: 2 } },
  ],
  [
    'context-parallel ranks of which the last has no token',
    { prefill: { cpSize: 4, context: 'contiguous' }, tokens: 9, cuts: [4] },
  ],
])('%s: every byte lands where it belongs, and nothing else changes', async (_, given) => {
  await exchange(await instances(given), given)
})

test('a prefix that is the whole prompt, and no whole page, moves no page but state and aux', async () => {
  const shape = model(4, kv([0, 1]), mamba([2, 3]))
  const given = { shape, tokens: 10, prefix: 10, cuts: [4] }
  const sides = await instances(given)
  const { senders, receivers, reserve } = legs(sides, 1n, given)
  expect(receivers[0]?.lists).toEqual({ kv: [], mamba: [2] })
  expect(await reserve()).toEqual([{ prefixTokens: 10 }])
  const sender = senders[0]!.sender
  expect(await sender.reserved()).toEqual({ prefixTokens: 10, firstTokens: { kv: 10 } })
  const { state } = split(shape, senders[0]!.lists)
  await sender.finish({ state, aux: { firstToken: 5 } })
  const { aux, report } = await receivers[0]!.receiver.done
  expect(aux).toEqual({ firstToken: 5 })
  // One slot of two layers of both parts.
  expect(report).toMatchObject({ pages: 1, bytes: 2 * (8 * 4 * 3 + 4 * 16) })
  const { side, lists } = receivers[0]!
  expect(wrongBytes(shape, side.rank, side, lists, { tokens: 10, prefix: 10 })).toEqual([])
})

test('with different prefixes on the ranks of decode, prefill is told what anybody needs', async () => {
  const sides = await instances({ decode: { tpSize: 2 } })
  const { receivers, senders } = legs(sides, 1n)
  await Promise.all(
    receivers.map(({ receiver, lists }, i) =>
      receiver.reserve(
        i === 0
          ? { pages: lists.kv!.slice(0, 1), prefixTokens: 8 }
          : { pages: lists.kv!.slice(0, 2), prefixTokens: 4 },
      ),
    ),
  )
  expect(await senders[0]!.sender.reserved()).toEqual({ prefixTokens: 4, firstTokens: { kv: 4 } })
  await sendAll(plain, { senders })
  const done = await Promise.all(receivers.map(({ receiver }) => receiver.done))
  expect(done.map(({ report }) => report.pages)).toEqual([1, 2])
  for (const [i, { side, lists }] of receivers.entries()) {
    const given = { kv: lists.kv!.slice(0, i + 1) }
    const prefix = i === 0 ? 8 : 4
    expect(wrongBytes(plain, side.rank, side, given, { tokens: 12, prefix })).toEqual([])
  }
})

test('leading pages that nobody needs, because of a window or a prefix, need not be named', async () => {
  const given = { shape: gpt, tokens: 21 }
  const sides = await instances(given)
  const { senders, receivers, reserve } = legs(sides, 1n, given)
  await reserve()
  const { sender, side, lists } = senders[0]!
  const { firstTokens } = await sender.reserved()
  // The window of 7 begins with token 14, in the page of token 12.
  expect(firstTokens).toEqual({ kv: 0, swa: 12 })
  const swa = lists.swa!.slice(3)
  await expect(
    sender.write({ tokens: [0, 21], pages: { kv: lists.kv!, swa: swa.slice(1) } }),
  ).rejects.toMatchObject({ code: 'ERR_KVX_INVALID_ARGUMENT' })
  await sender.write({ tokens: [0, 21], pages: { kv: lists.kv!, swa } })
  await sender.finish({ aux: { firstToken: 1 } })
  await receivers[0]!.receiver.done
  const { side: to, lists: at } = receivers[0]!
  expect(wrongBytes(gpt, to.rank, to, at, { tokens: 21, prefix: 0 })).toEqual([])
  expect(side.rank.tp).toBe(0)
})

test('a prefill rank that has nothing to send is visited by one decode rank, and learns that its request is over', async () => {
  // Two heads and eight ranks: each head has four copies, of which one decode rank takes one per layer.
  const given = { shape: model(1, kv([0], 2)), prefill: { tpSize: 8 } }
  const sides = await instances(given)
  const { sent } = await exchange(sides, given)
  const summaries = sent.map((one) => (one as unknown as { summary: { bytes: number } }).summary)
  expect(summaries.filter(({ bytes }) => bytes === 0)).toHaveLength(6)
  const { senders, receivers, reserve } = legs(sides, 2n, given)
  await reserve()
  await Promise.all(senders.map(({ sender }) => sender.reserved()))
  receivers[0]!.receiver.abort('the client has gone')
  await Promise.all(senders.map(({ sender }) => sender.settled))
  expect(new Set(senders.map(({ sender }) => sender.error?.message))).toEqual(
    new Set(['the client has gone']),
  )
})

test('what one of many ranks breaks off ends the others, and the pages serve the next request', async () => {
  const given = { prefill: { tpSize: 4 }, decode: { tpSize: 2 } }
  const sides = await instances(given)
  const { senders, receivers, reserve } = legs(sides, 1n, given)
  await reserve()
  await Promise.all(senders.map(({ sender }) => sender.reserved()))
  const [first] = senders
  await first!.sender.write({
    tokens: [0, 4],
    pages: pagesOf(first!.side, 'kv', first!.lists.kv!, 12, [0, 4]),
  })
  // It takes from the prefill ranks 2 and 3 only; of its end the other ones learn from their hosts.
  receivers[1]!.receiver.abort('the client has gone')
  const both = [...senders.map(({ sender }) => sender), ...receivers.map((one) => one.receiver)]
  const taking = senders.filter(({ side }) => side.rank.tp >= 2).map(({ sender }) => sender)
  await Promise.all(taking.map((sender) => sender.settled))
  for (const one of both) one.abort('the host has heard of it')
  await Promise.all(both.map((one) => one.settled))
  await exchange(sides, given, 2n)
})

test('a room belongs to the data-parallel rank of prefill that the room names', async () => {
  const sides = await instances({ prefill: { dpSize: 2 } })
  for (const room of [6n, 7n]) {
    await exchange(sides, { at: { dp: Number(room % 2n) } }, room)
  }
})

const routed = {
  dp2: { prefill: { dpSize: 2 } },
  dp3: { prefill: { dpSize: 3, tpSize: 2 }, decode: { tpSize: 4 } },
}

test.each<[string, Case, bigint, NonNullable<Case['at']>]>([
  ['given to both sides', routed.dp2, 6n, { dp: 1, sent: 1, asked: 1 }],
  [
    'given to decode, published for it all the same',
    routed.dp2,
    6n,
    { dp: 1, sent: 'published', asked: 1 },
  ],
  ['published', routed.dp2, 6n, { dp: 1, sent: 'published', asked: 'published' }],
  [
    'published, and where the room would have it',
    routed.dp2,
    7n,
    { dp: 1, sent: 'published', asked: 'published' },
  ],
  [
    'published, of 3 with 2 tensor-parallel ranks each',
    routed.dp3,
    6n,
    { dp: 2, sent: 'published', asked: 'published' },
  ],
  ['given, of 3 with 2 tensor-parallel ranks each', routed.dp3, 6n, { dp: 1, sent: 1, asked: 1 }],
  [
    'published, with stages on both sides',
    { prefill: { dpSize: 2, ppSize: 2 }, decode: { ppSize: 2 } },
    2n,
    { dp: 1, sent: 'published', asked: 'published' },
  ],
  ['published, where there is only one', {}, 5n, { dp: 0, sent: 'published', asked: 'published' }],
])('the data-parallel rank is %s: every byte comes from it', async (_, given, room, at) => {
  const sides = await instances(given)
  await exchange(sides, { ...given, at }, room)
  // The room is published anew for the next request.
  await exchange(sides, { ...given, at }, room + 100n)
})

test('decode that asked before prefill chose waits for it, and takes no pages meanwhile', async () => {
  const sides = await instances(routed.dp3)
  const [decode] = sides.decodes
  const at = { dp: 2, sent: 'published', asked: 'published' } as const
  const early = decode!.manager.receive(6n, {
    ...promptOf(12),
    from: sides.from,
    dpRank: 'published',
  })
  const first = await Promise.race([early.reached.then(() => 'reached'), setTimeout(50, 'waits')])
  expect(first).toBe('waits')
  sendLegs(sides, 6n, { at })
  await early.reached
  early.abort('enough')
  await early.settled
})

test('decode that asks after prefill has failed learns why', async () => {
  const sides = await instances(routed.dp2)
  const at = { dp: 1, sent: 'published', asked: 'published' } as const
  const { sender } = sendLegs(sides, 6n, { at })[0]!
  sender.abort('no memory left')
  await sender.settled
  const receiver = sides.decodes[0]!.manager.receive(6n, {
    ...promptOf(12),
    from: sides.from,
    dpRank: 'published',
  })
  await expect(receiver.reserve({ pages: [1, 2, 4] })).rejects.toMatchObject({
    message: 'no memory left',
  })
  await receiver.settled
})

test('a data-parallel rank that nobody publishes is not waited for beyond the deadline', async () => {
  const sides = await instances(routed.dp2)
  const receiver = sides.decodes[0]!.manager.receive(6n, {
    ...{ ...promptOf(12), from: sides.from, dpRank: 'published', deadlines: { pairing: 60 } },
  })
  await expect(receiver.done).rejects.toMatchObject({
    ...{ code: 'ERR_KVX_ROOM_UNKNOWN', phase: 'bootstrap', peer: 'prefill-a' },
    message:
      "prefill-a has published no data-parallel rank for room 6/0 within 60 ms: its leg did not come, or was sent without dpRank 'published'.",
  })
  await receiver.settled
})

test('a data-parallel rank that prefill does not have fails the request at decode', async () => {
  const sides = await instances(routed.dp2)
  const receiver = sides.decodes[0]!.manager.receive(6n, {
    ...promptOf(12),
    from: sides.from,
    dpRank: 2,
  })
  await expect(receiver.done).rejects.toMatchObject({
    ...{ code: 'ERR_KVX_INVALID_ARGUMENT', phase: 'bootstrap', peer: 'prefill-a' },
    message:
      'dpRank of room 6/0 must be from 0 to 1, as prefill-a has 2 data-parallel ranks, got 2.',
  })
  await receiver.settled
})

test.each([
  [
    6n,
    1,
    undefined,
    'request: room 6 belongs to data-parallel rank 0 (room mod 2), and this is data-parallel rank 1 of 2; send it there, or state dpRank on both sides.',
  ],
  [6n, 1, 0, 'request: dpRank must be 1, as this is data-parallel rank 1 of 2, got 0.'],
  [7n, 0, 5, 'request: dpRank must be 0, as this is data-parallel rank 0 of 2, got 5.'],
])(
  'room %s is not sent by data-parallel rank %s when dpRank is %s',
  async (room, dp, dpRank, message) => {
    const sides = await instances(routed.dp2)
    const { manager } = sides.prefills.find(({ rank }) => rank.dp === dp)!
    expect(() =>
      manager.send(room, { ...promptOf(12), ...(dpRank !== undefined && { dpRank }) }),
    ).toThrow(expect.objectContaining({ code: 'ERR_KVX_INVALID_ARGUMENT', message }))
  },
)

test('a rank that has nothing but state names no pages, and one that has pages names them', async () => {
  const shape = model(4, kv([0, 1]), mamba([2, 3]))
  const sides = await instances({ shape, decode: { ppSize: 2 } })
  const { senders, receivers } = legs(sides, 1n)
  const [first, second] = receivers
  const { pages, state } = split(shape, first!.lists)
  await expect(first!.receiver.reserve({ state: { mamba: [1] } })).rejects.toMatchObject({
    message: "Room 1/0: reserve(): pages of 'kv' are missing.",
  })
  expect(state).toEqual({})
  await first!.receiver.reserve({ pages })
  await second!.receiver.reserve({ state: split(shape, second!.lists).state })
  await sendAll(shape, { senders })
  await Promise.all(receivers.map(({ receiver }) => receiver.done))
})

test('a request without state on both sides moves none, and what one side alone names is told with both numbers', async () => {
  const shape = model(4, kv([0, 1]), mamba([2, 3]))
  const sides = await instances({ shape })
  const without = (room: bigint) => {
    const { senders, receivers } = legs(sides, room)
    const [{ sender, lists }, { receiver, lists: theirs }] = [senders[0]!, receivers[0]!]
    const write = async () => {
      await sender.reserved()
      await sender.write({ tokens: [0, 12], pages: { kv: lists.kv! } })
    }
    return { sender, receiver, lists, theirs, write }
  }
  const none = without(1n)
  await none.receiver.reserve({ pages: none.theirs.kv! })
  await none.write()
  await none.sender.finish()
  await none.receiver.done
  const one = without(2n)
  await one.receiver.reserve({ pages: one.theirs.kv! })
  await one.write()
  await expect(one.sender.finish({ state: { mamba: [2] } })).rejects.toMatchObject({
    message: expect.stringContaining('has 1 slots of the state') as string,
  })
  await one.sender.finish()
  await one.receiver.done
})

test('the failure of one prefill rank reaches the decode rank and its other prefill ranks', async () => {
  const sides = await instances({ prefill: { ppSize: 2 } })
  const { senders, receivers, reserve } = legs(sides, 1n)
  await reserve()
  await Promise.all(senders.map(({ sender }) => sender.reserved()))
  senders[1]?.sender.abort('stage 1 has no memory left')
  await expect(receivers[0]?.receiver.done).rejects.toMatchObject({
    code: 'ERR_KVX_ABORTED',
    message: 'stage 1 has no memory left',
  })
  await Promise.all([
    ...senders.map(({ sender }) => sender.settled),
    receivers[0]?.receiver.settled,
  ])
  expect(senders[0]?.sender.error?.message).toBe('stage 1 has no memory left')
  const polls = [
    ...senders.map(({ sender }) => sender),
    ...receivers.map((one) => one.receiver),
  ].map((one) => one.poll())
  expect(Math.min(...polls)).toBe(KVPoll.Failed)
})

test('the failure of one decode rank reaches prefill and the other decode ranks', async () => {
  const sides = await instances({ decode: { ppSize: 2 } })
  const { senders, receivers, reserve } = legs(sides, 1n)
  await reserve()
  await senders[0]?.sender.reserved()
  receivers[0]?.receiver.abort('the client has gone')
  await expect(receivers[1]?.receiver.done).rejects.toMatchObject({
    message: 'the client has gone',
  })
  await Promise.all([
    ...receivers.map(({ receiver }) => receiver.settled),
    senders[0]?.sender.settled,
  ])
  expect(senders[0]?.sender.error?.message).toBe('the client has gone')
})

test('what prefill tells of a decode rank names that rank on all of them', async () => {
  const sides = await instances({ decode: { ppSize: 2 } })
  const { senders, receivers, reserve } = legs(sides, 1n)
  await reserve()
  const sender = senders[0]?.sender
  await sender?.reserved()
  // Each decode rank gets a write of its own: the second one fails.
  let writes = 0
  sides.engine.faults.beforeWrite = () => {
    if (++writes === 2) throw new Error('the wire broke')
  }
  await sender?.write({ tokens: [0, 12], pages: senders[0]!.lists.kv! })
  await expect(sender?.finish()).rejects.toMatchObject({ code: 'ERR_KVX_TRANSFER_FAILED' })
  const { peer, rank } = sender?.error ?? {}
  expect(peer).toBe('decode-a')
  expect(rank).toMatch(/^tp0\/pp[01]\/cp0\/dp0$/)
  for (const { receiver } of receivers) {
    await expect(receiver.done).rejects.toMatchObject({ peer, rank })
    await receiver.settled
  }
})

test('an instance is used once all of its ranks have registered, and a rank that restarts replaces itself', async () => {
  const sides = await instances({ prefill: { ppSize: 2 } })
  const second = sides.prefills[1]
  if (!second) throw new Error('there are two stages')
  await second.manager.close()
  const again = await sides.start('prefill', second.rank)
  const prefills = [...sides.prefills.slice(0, 1), again]
  const { senders, receivers, reserve } = legs({ ...sides, prefills }, 2n)
  await reserve()
  await sendAll(plain, { senders })
  await receivers[0]?.receiver.done
})

test.each<[string, Case, Partial<Case>, RegExp]>([
  [
    'stages of another number of layers',
    {},
    { shape: model(5, kv(range(0, 5))) },
    /The ranks do not fit in stages: prefill has \[0, 4\], decode has \[0, 5\]\. The cache has 5 layers/,
  ],
  [
    'another number of heads',
    {},
    { shape: model(4, kv(range(0, 4), 2)) },
    /The caches differ in the units of kv layer 0 k: prefill has 4, decode has 2\./,
  ],
  [
    'another component',
    {},
    { shape: model(4, kv([0, 1, 2, 3]), mamba([3])) },
    /The caches differ in their components: prefill has kv, decode has kv, mamba\./,
  ],
  [
    'another window',
    { shape: gpt },
    { shape: model(6, kv([0, 2, 4]), windowed([1, 3, 5], 8)) },
    /The caches differ in the window of 'swa': prefill has 7, decode has 8\./,
  ],
  [
    'another model',
    {},
    { shape: { ...plain, model: 'another' } },
    /The caches differ in the model: prefill has ranks, decode has another\./,
  ],
  [
    'another setting',
    { shape: { ...plain, settings: { rope: 'long' } } },
    { shape: plain },
    /The caches differ in the setting 'rope': prefill has long, decode has none\./,
  ],
  [
    'pages that begin together only after very many tokens',
    { shape: model(1, kv([0], 1)) },
    { shape: model(1, kv([0], 1)), to: { pageTokens: 65_537 } },
    /prefill has pages of 4 tokens, decode has pages of 65537 tokens\. .* page sizes of which one divides the other would fit/,
  ],
])('%s: decode is told the field and both values', async (_, prefill, change, message) => {
  const sides = await instances(prefill)
  const other = await instances({ ...prefill, ...change })
  const { manager } = other.decodes[0]!
  const receiver = manager.receive(1n, { from: sides.from, ...promptOf(12) })
  await expect(receiver.done).rejects.toMatchObject({
    code: expect.stringMatching(/^ERR_KVX_(LAYOUT|PAGE_SIZE)_MISMATCH$/) as string,
    message: expect.stringMatching(message) as string,
  })
  await receiver.settled
})

test.each<[string, Case, string | undefined, string, string?]>([
  [
    'a coordinate beyond its size',
    { decode: { tp: 2, tpSize: 2 } },
    'a',
    'tp must be an integer from 0 to 1, got 2',
  ],
  [
    'more ranks than there may be',
    { decode: { tpSize: 4_096, dpSize: 2 } },
    'a',
    'at most 4096 ranks, got 8192',
  ],
  [
    'stages that end elsewhere',
    { decode: { stages: [0, 3] } },
    'a',
    'stages of this rank is [0, 3]. The cache has 4 layers, those of a draft model among them; stages that end there would fit',
  ],
  [
    'a number of ranks that does not divide the heads',
    { decode: { tpSize: 3 } },
    'a',
    'tpSize of this rank is 3. kv layer 0 k has 4 units, which 3 ranks cannot share evenly; a number of ranks that divides 4, or is a multiple of it, would fit',
  ],
  [
    'stretches that cut a row of scales',
    { shape: model(2, scales([0, 1])), decode: { cpSize: 2, context: { interleave: 1 } } },
    'a',
    'context of this rank is { interleave: 1 }. scales layer 0 s has one row for 2 tokens, which may not be dealt out to two ranks; a multiple of 2 would fit',
  ],
  [
    'context-parallel ranks that do not say which tokens they have',
    { decode: { cpSize: 2 } },
    'a',
    "'context' must say",
  ],
  ['several ranks without a name', { decode: { tpSize: 2 } }, undefined, 'needs a name'],
  [
    'layers of another stage',
    { decode: { pp: 1, ppSize: 2, stages: [0, 1, 4] } },
    'a',
    'place has kv layer 0 k, which rank tp0/pp1/cp0/dp0 does not hold',
    'ERR_KVX_INVALID_ARGUMENT',
  ],
])('%s is refused when a manager opens', async (_, given, instance, text, code) => {
  const { shape = plain, decode = {} } = given
  const { place, memory } = keep(shape, makeRank(shape.layers), { pageTokens: 4 })
  const opening = KVManager.open({
    role: 'decode',
    backend: new Loopback().backend,
    token,
    shape,
    place,
    memory: [memory],
    rank: decode,
    ...(instance !== undefined && { instance }),
  })
  await expect(opening).rejects.toMatchObject({
    code: code ?? 'ERR_KVX_INVALID_OPTION',
    message: expect.stringContaining(text) as string,
  })
})

test('a manager that drains takes no new requests, and lets the running ones end', async () => {
  const sides = await instances({})
  const { senders, receivers, reserve } = legs(sides, 1n)
  await reserve()
  const [prefill] = sides.prefills
  const [decode] = sides.decodes
  const parked = decode?.manager.receive(2n, { from: sides.from, ...promptOf(12) })
  await parked?.reserve({ pages: Int32Array.of(1, 2, 4) })
  const drained = prefill?.manager.drain()
  expect(() => prefill?.manager.send(3n, promptOf(12))).toThrow(
    expect.objectContaining({ code: 'ERR_KVX_DRAINING' }),
  )
  await expect(parked?.done).rejects.toMatchObject({ code: 'ERR_KVX_DRAINING' })
  const late = decode?.manager.receive(4n, { from: sides.from, ...promptOf(12) })
  await expect(late?.reserve({ pages: Int32Array.of(1, 2, 4) })).rejects.toMatchObject({
    code: 'ERR_KVX_DRAINING',
  })
  await sendAll(plain, { senders })
  await receivers[0]?.receiver.done
  await drained
})
