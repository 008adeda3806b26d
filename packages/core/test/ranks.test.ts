/** Instances of several ranks: real managers, sockets and bootstrap; the engine copies within the process. */
import { afterEach, expect, test } from 'vitest'
import { silentLog } from '@kvx/contract'
import { BootstrapServer } from '../src/bootstrap/index.ts'
import { promptDigest, type Layout, type Tensor } from '../src/layout/index.ts'
import { KVManager, KVPoll } from '../src/manager/index.ts'
import { headsOf, makeRank, stageOf, type Rank } from '../src/protocol/index.ts'
import { Loopback, plainMemory } from './support/loopback.ts'

const token = 'a token for tests'
const pageTokens = 4
const headBytes = 8
const heads = 2
const layers = 4
const pages = 12

/** The tensors of a rank's layers and heads, one after another. */
function layoutOf(rank: Rank): Layout {
  const [low, high] = headsOf(rank, heads)
  const [firstLayer, endLayer] = stageOf(rank)
  const pageBytes = pageTokens * (high - low) * headBytes
  const tensors: Tensor[] = []
  for (let layer = firstLayer; layer < endLayer; layer++) {
    for (const part of ['k', 'v'] as const) {
      tensors.push({
        component: 'kv',
        layer,
        part,
        dtype: 'f16',
        region: 0,
        base: tensors.length * pages * pageBytes,
        pageBytes,
        heads: [low, high],
        headBytes,
        order: 'token-major',
      })
    }
  }
  return { model: 'ranks', pageTokens, layers, heads, pages: { kv: pages }, tensors }
}

function memoryOf({ tensors }: Layout) {
  return plainMemory(tensors.reduce((sum, { pageBytes }) => sum + pageBytes * pages, 0))
}

interface Place {
  readonly tensor: Tensor
  readonly page: number
  readonly token: number
  readonly head: number
}

/** Every head of every token of the named pages, with where its bytes lie. */
function* places(layout: Layout, list: Int32Array): Generator<Place & { offset: number }> {
  for (const tensor of layout.tensors) {
    const held = tensor.heads[1] - tensor.heads[0]
    for (const [page, at] of list.entries()) {
      for (let token = 0; token < pageTokens; token++) {
        for (let head = tensor.heads[0]; head < tensor.heads[1]; head++) {
          const offset =
            tensor.base +
            at * tensor.pageBytes +
            (token * held + head - tensor.heads[0]) * headBytes
          yield { tensor, page, token, head, offset }
        }
      }
    }
  }
}

/** What the cache of the whole model holds there: the same on whichever rank it lies. */
const valueAt = ({ tensor, page, token, head }: Place) =>
  (tensor.layer * 67 + (tensor.part === 'k' ? 0 : 29) + page * 13 + token * 5 + head * 3 + 1) & 0xff

const open: { close(): Promise<void> }[] = []
afterEach(async () => {
  for (const one of open.splice(0).reverse()) await one.close()
})

const spread = (sizes: Partial<Rank>): Rank[] => {
  const one = makeRank(layers, sizes)
  const range = (size: number) => Array.from({ length: size }, (_, i) => i)
  return range(one.dpSize).flatMap((dp) =>
    range(one.ppSize).flatMap((pp) => range(one.tpSize).map((tp) => ({ ...one, tp, pp, dp }))),
  )
}

async function instances(prefill: Partial<Rank>, decode: Partial<Rank>, verifyKV = false) {
  const engine = new Loopback()
  const bootstrap = await BootstrapServer.open({
    host: '127.0.0.1',
    port: 0,
    token,
    log: silentLog,
  })
  open.push(bootstrap)
  const start = async (role: 'prefill' | 'decode', rank: Rank) => {
    const layout = layoutOf(rank)
    const memory = memoryOf(layout)
    const manager = await KVManager.open({
      role,
      backend: engine.backend,
      token,
      layout,
      memory: [memory],
      instance: `${role}-a`,
      rank,
      ...(role === 'prefill' ? { bootstrap: bootstrap.address } : { verifyKV }),
    })
    open.push(manager)
    return { rank, layout, memory, manager }
  }
  const all = (role: 'prefill' | 'decode', ranks: Rank[]) =>
    Promise.all(ranks.map((rank) => start(role, rank)))
  return {
    from: bootstrap.address,
    engine,
    start,
    prefills: await all('prefill', spread(prefill)),
    decodes: await all('decode', spread(decode)),
  }
}

const source = Int32Array.of(5, 2, 9)
const destination = Int32Array.of(7, 0, 3)
const tokens = 3 * pageTokens
const digest = promptDigest(Array.from({ length: tokens }, (_, i) => i))

type Sides = Awaited<ReturnType<typeof instances>>

function legs({ prefills, decodes, from }: Sides, room: bigint, dp = 0) {
  const senders = prefills
    .filter(({ rank }) => rank.dp === dp)
    .map(({ manager, memory, layout, rank }) => {
      for (const place of places(layout, source)) {
        memory.view(place.offset, headBytes).fill(valueAt(place))
      }
      return { sender: manager.send(room, { tokens, digest }), rank }
    })
  const receivers = decodes.map(({ manager }) => manager.receive(room, { from, tokens, digest }))
  return { senders, receivers }
}

async function sendAll({ senders }: Pick<ReturnType<typeof legs>, 'senders'>) {
  await Promise.all(
    senders.map(async ({ sender, rank }) => {
      await sender.reserved()
      await sender.write({ start: 0, pages: source.subarray(0, 1) })
      await sender.write({ start: 1, pages: source.subarray(1) })
      const samples = rank.tp === 0 && rank.pp === rank.ppSize - 1
      await sender.finish({ aux: samples ? { firstToken: 11 } : {} })
    }),
  )
}

test.each<[string, Partial<Rank>, Partial<Rank>]>([
  ['one to one', {}, {}],
  ['two stages to one', { ppSize: 2 }, {}],
  ['one to two stages', {}, { ppSize: 2 }],
  ['stages cut differently', { ppSize: 2, stages: [0, 1, 4] }, { ppSize: 3, stages: [0, 2, 3, 4] }],
  ['two tensor ranks to one', { tpSize: 2 }, {}],
  ['one to two tensor ranks', {}, { tpSize: 2 }],
  ['two to two, both ways cut', { tpSize: 2 }, { ppSize: 2 }],
])('%s: every head of every layer lands where it belongs', async (_, prefill, decode) => {
  const sides = await instances(prefill, decode, true)
  const { senders, receivers } = legs(sides, 1n)
  await Promise.all(receivers.map((receiver) => receiver.reserve({ pages: destination })))
  await sendAll({ senders })
  const done = await Promise.all(receivers.map((receiver) => receiver.done))
  for (const { manager, layout, memory, rank } of sides.decodes) {
    for (const place of places(layout, destination)) {
      const bytes = memory.view(place.offset, headBytes)
      expect({ ...place, rank, manager: manager.role, bytes: [...bytes] }).toMatchObject({
        bytes: Array<number>(headBytes).fill(valueAt(place)),
      })
    }
  }
  // The rank that samples tells its own decode ranks.
  expect(done.some(({ aux }) => aux.firstToken === 11)).toBe(true)
  const polls = [...senders.map(({ sender }) => sender), ...receivers].map((one) => one.poll())
  expect(Math.min(...polls)).toBe(KVPoll.Success)
})

test('a room belongs to the data-parallel rank of prefill that the room names', async () => {
  const sides = await instances({ dpSize: 2 }, {})
  for (const room of [6n, 7n]) {
    const { senders, receivers } = legs(sides, room, Number(room % 2n))
    await receivers[0]?.reserve({ pages: destination })
    await sendAll({ senders })
    await receivers[0]?.done
  }
})

test('the failure of one prefill rank reaches the decode rank and its other prefill ranks', async () => {
  const sides = await instances({ ppSize: 2 }, {})
  const { senders, receivers } = legs(sides, 1n)
  await receivers[0]?.reserve({ pages: destination })
  await Promise.all(senders.map(({ sender }) => sender.reserved()))
  senders[1]?.sender.abort('stage 1 has no memory left')
  await expect(receivers[0]?.done).rejects.toMatchObject({
    code: 'ERR_KVX_ABORTED',
    message: 'stage 1 has no memory left',
  })
  await Promise.all([...senders.map(({ sender }) => sender.settled), receivers[0]?.settled])
  expect(senders[0]?.sender.error?.message).toBe('stage 1 has no memory left')
  const polls = [...senders.map(({ sender }) => sender), ...receivers].map((one) => one.poll())
  expect(Math.min(...polls)).toBe(KVPoll.Failed)
})

test('the failure of one decode rank reaches prefill and the other decode ranks', async () => {
  const sides = await instances({}, { ppSize: 2 })
  const { senders, receivers } = legs(sides, 1n)
  await Promise.all(receivers.map((receiver) => receiver.reserve({ pages: destination })))
  await senders[0]?.sender.reserved()
  receivers[0]?.abort('the client has gone')
  await expect(receivers[1]?.done).rejects.toMatchObject({ message: 'the client has gone' })
  await Promise.all([...receivers.map((receiver) => receiver.settled), senders[0]?.sender.settled])
  expect(senders[0]?.sender.error?.message).toBe('the client has gone')
})

test('what prefill tells of a decode rank names that rank on all of them', async () => {
  const sides = await instances({}, { ppSize: 2 })
  const { senders, receivers } = legs(sides, 1n)
  await Promise.all(receivers.map((receiver) => receiver.reserve({ pages: destination })))
  const sender = senders[0]?.sender
  await sender?.reserved()
  // Each decode rank gets a write of its own: the second one fails.
  let writes = 0
  sides.engine.faults.beforeWrite = () => {
    if (++writes === 2) throw new Error('the wire broke')
  }
  await sender?.write({ start: 0, pages: source })
  await expect(sender?.finish()).rejects.toMatchObject({ code: 'ERR_KVX_TRANSFER_FAILED' })
  const { peer, rank } = sender?.error ?? {}
  expect(peer).toBe('decode-a')
  expect(rank).toMatch(/^tp0\/pp[01]\/cp0\/dp0$/)
  for (const receiver of receivers) {
    await expect(receiver.done).rejects.toMatchObject({ peer, rank })
    await receiver.settled
  }
})

test('an instance is used once all of its ranks have registered, and a rank that restarts replaces itself', async () => {
  const sides = await instances({ ppSize: 2 }, {})
  const second = sides.prefills[1]
  if (!second) throw new Error('there are two stages')
  await second.manager.close()
  const again = await sides.start('prefill', second.rank)
  const prefills = [...sides.prefills.slice(0, 1), again]
  const { senders, receivers } = legs({ ...sides, prefills }, 2n)
  await receivers[0]?.reserve({ pages: destination })
  await sendAll({ senders })
  await receivers[0]?.done
})

test('ranks that do not fit are refused with the reason', async () => {
  const sides = await instances({ tpSize: 2 }, {})
  const third = makeRank(layers, { cpSize: 2 })
  const { manager } = await sides.start('decode', third)
  const receiver = manager.receive(1n, { from: sides.from, tokens, digest })
  await expect(receiver.done).rejects.toMatchObject({
    code: 'ERR_KVX_LAYOUT_MISMATCH',
    message: expect.stringContaining('context-parallel sizes differ') as string,
  })
  await receiver.settled
})

test.each<[string, Partial<Rank>, string | undefined, string]>([
  ['a coordinate beyond its size', { tp: 2, tpSize: 2 }, 'a', 'tp is 2'],
  ['stages that end elsewhere', { stages: [0, 3] }, 'a', 'stages end at 3 of 4 layers'],
  ['layers of another stage', { pp: 1, ppSize: 2, stages: [0, 1, 4] }, 'a', 'has layer 0'],
  ['several ranks without a name', { tpSize: 2 }, undefined, 'needs a name'],
])('%s is refused when a manager opens', async (_, rank, instance, text) => {
  const layout = layoutOf(makeRank(layers))
  const opening = KVManager.open({
    role: 'decode',
    backend: new Loopback().backend,
    token,
    layout,
    memory: [memoryOf(layout)],
    rank,
    ...(instance !== undefined && { instance }),
  })
  await expect(opening).rejects.toMatchObject({
    code: 'ERR_KVX_INVALID_OPTION',
    message: expect.stringContaining(text) as string,
  })
})

test('a manager that drains takes no new requests, and lets the running ones end', async () => {
  const sides = await instances({}, {})
  const { senders, receivers } = legs(sides, 1n)
  await receivers[0]?.reserve({ pages: destination })
  const [prefill] = sides.prefills
  const [decode] = sides.decodes
  const parked = decode?.manager.receive(2n, { from: sides.from, tokens, digest })
  await parked?.reserve({ pages: Int32Array.of(1, 2, 4) })
  const drained = prefill?.manager.drain()
  expect(() => prefill?.manager.send(3n, { tokens, digest })).toThrow(
    expect.objectContaining({ code: 'ERR_KVX_DRAINING' }),
  )
  await expect(parked?.done).rejects.toMatchObject({ code: 'ERR_KVX_DRAINING' })
  const late = decode?.manager.receive(4n, { from: sides.from, tokens, digest })
  await expect(late?.reserve({ pages: Int32Array.of(1, 2, 4) })).rejects.toMatchObject({
    code: 'ERR_KVX_DRAINING',
  })
  await sendAll({ senders })
  await receivers[0]?.done
  await drained
})
