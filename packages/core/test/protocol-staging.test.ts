/** What the two sides say of loads and do with bays, step by step: the test plays the other side, the engine and the host. */
import { expect, test } from 'vitest'
import { DecodeSide, prefiller } from './protocol/decode-side.ts'
import { int32, kvBytes, limits } from './protocol/fixtures.ts'
import { decoder, PrefillSide } from './protocol/prefill-side.ts'

const bayBytes = 4 * kvBytes
const decode = decoder()

function prefillSide({ bays = 2, bytes = bayBytes, target = bayBytes } = {}) {
  const staging = { bays, bayBytes: bytes, shortRun: 1_000, fewestRuns: 1, region: 1 }
  const side = new PrefillSide({
    staging,
    limits: { bytesInFlightPerPeer: 100 * kvBytes },
  })
  return side
    .hello(decode, { staging: { region: new Uint8Array(1), bayBytes: target } })
    .linkOpen(decode)
}

/** A request of three pages that has been written. */
function written(side = prefillSide()) {
  side.reserve(decode, 1).send().clear().write()
  return side
}

function gathered(side: PrefillSide, error?: undefined) {
  return side.step({ type: 'load.gathered', piece: 1, error })
}

const bay = (side: PrefillSide, offset?: number, load = 1) =>
  side.message(decode, { k: 'bay', ep: 1, load, ...(offset === undefined ? {} : { offset }) })
const scattered = (side: PrefillSide, load = 1) =>
  side.message(decode, { k: 'scattered', ep: 1, load })

test('a load is asked for, gathered, written as one run and told, and has landed when decode says so', () => {
  const side = written()
  expect(side.take()).toMatchObject({ sent: ['stage(1)'], told: ['posted(1)'], engine: [] })
  expect(bay(side, bayBytes).take()).toMatchObject({ sent: [], engine: ['gather'] })
  expect(gathered(side).take()).toMatchObject({ sent: [], engine: ['post'] })
  const [post] = side.posts
  expect([...(post?.plan.lanes ?? [])]).toEqual([
    ...[1, 1, 0, bayBytes],
    ...[3 * kvBytes, 3 * kvBytes, 3 * kvBytes, 1, 0, 0],
  ])
  expect(side.done().take().sent).toEqual(['staged(1)'])
  side.settled().finish()
  expect(side.take().sent).toEqual([])
  expect(scattered(side).take().sent).toEqual(['progress(24)', 'complete'])
  expect(side.message(decode, { k: 'ack', ep: 1 }).take().told).toEqual(['finished', 'settled'])
  expect(side.tick(20_000).left()).toBe('')
})

test('decode may answer before the engine has settled the write', () => {
  const side = bay(written(), 0)
  gathered(side).done().finish().clear()
  expect(scattered(side).take().sent).toEqual(['progress(24)'])
  expect(side.settled().take().sent).toEqual(['complete'])
})

test('without a bay it is written as it is', () => {
  const side = written().clear()
  expect(bay(side).take()).toMatchObject({ sent: [], engine: ['post'] })
  expect(side.posts[0]?.plan.groups.length).toBe(3)
  expect(side.landed().finish().take().sent).toEqual(['progress(24)', 'complete'])
})

test.each([
  ['a bay', (side: PrefillSide) => bay(side, 0)],
  ['that it has scattered', (side: PrefillSide) => scattered(side)],
])('what decode says of a load that waits for something else changes nothing: %s', (_name, say) => {
  const side = gathered(bay(written(), 0)).clear()
  expect(say(side).take()).toMatchObject({ sent: [], told: [], engine: [] })
})

test('what may have got lost with a connection is said again after the next welcome', () => {
  const hello = { staging: { region: new Uint8Array(1), bayBytes } }
  const side = written().clear().hello(decode, hello)
  expect(side.take().sent).toEqual(['welcome', 'stage(1)'])
  gathered(bay(side, 0)).hello(decode, hello)
  expect(side.take().sent).toEqual(['welcome'])
  side.done().clear().hello(decode, hello)
  expect(side.take().sent).toEqual(['welcome', 'staged(1)'])
})

test('four loads of a transfer are under way, and the next is asked for when the first has ended', () => {
  const other = prefillSide({ bays: 8, target: kvBytes / 2 })
    .reserve(decode, 1)
    .send()
    .clear()
  expect(other.write().take().sent).toEqual(['stage(1)', 'stage(2)', 'stage(3)', 'stage(4)'])
  expect(bay(other, undefined, 2).take().sent).toEqual([])
  expect(bay(other, undefined, 1).take().sent).toEqual(['stage(5)', 'stage(6)'])
})

test('a short request is asked for between the loads of a long one that was written before', () => {
  const side = prefillSide({ bays: 1, target: kvBytes / 2 })
    .reserve(decode, 1)
    .send()
    .reserve(decode, 2, { room: 10n })
    .send(2, { room: 10n })
    .write()
    .write(0, int32(3, 4, 5), 2, undefined, 2)
  const asked = () =>
    side
      .take()
      .effects.flatMap((effect) =>
        effect.do === 'send' && effect.message.k === 'stage' ? [effect.message.ep] : [],
      )
  expect(asked()).toEqual([1])
  bay(side, undefined, 1)
  bay(side, undefined, 2)
  bay(side.message(decode, { k: 'bay', ep: 2, load: 1 }), undefined, 3)
  expect(asked()).toEqual([1, 2, 1, 2])
})

test('a load that finds no bay of this side is written as it is after a quarter of the deadline', () => {
  const side = prefillSide({ bays: 1, target: 2 * kvBytes })
    .reserve(decode, 1)
    .send()
    .clear()
  expect(side.write().take()).toMatchObject({ sent: ['stage(1)'], engine: [] })
  expect(side.pass(700, decode).take().engine).toEqual([])
  expect(side.pass(100, decode).take().engine).toEqual(['post'])
})

test.each([
  ['is asked for', (side: PrefillSide) => side, 'settled'],
  ['is gathered', (side: PrefillSide) => bay(side, 0), 'unsettled'],
  ['is written', (side: PrefillSide) => gathered(bay(side, 0)), 'unsettled'],
  ['is told, not settled', (side: PrefillSide) => gathered(bay(side, 0)).done(), 'unsettled'],
  ['waits to be scattered', (side: PrefillSide) => gathered(bay(side, 0)).landed(), 'settled'],
] as const)('a request that is aborted while its load %s leaves nothing', (_name, reach, after) => {
  for (const abort of [
    (side: PrefillSide) => side.hostAbort(),
    (side: PrefillSide) => side.abort(decode, 1),
  ]) {
    const side = abort(reach(written()).clear())
    expect(side.take().sent.includes('drained')).toBe(after === 'settled')
    gathered(side)
    if (side.posts.length > 0) side.failed().settled()
    expect(side.where(decode, 1)).not.toContain('unsettled')
    side.message(decode, { k: 'ack', ep: 1 })
    expect(side.pass(20_000, decode).left()).toBe('')
  }
})

test.each([
  ['an answer to its question', (side: PrefillSide) => side],
  ['the copy', (side: PrefillSide) => bay(side, 0)],
  ['the write', (side: PrefillSide) => gathered(bay(side, 0))],
  ['the scattering', (side: PrefillSide) => gathered(bay(side, 0)).landed()],
])('a load waits for %s as long as the deadline of a transfer', (_name, reach) => {
  const side = reach(written()).clear()
  expect(side.pass(2_900, decode).take().told).toEqual([])
  expect(side.pass(200, decode).take().told).toContain('failed(TRANSFER_TIMEOUT)')
})

// Decode

const prefill = prefiller()

function decodeSide(bays = 1) {
  const side = new DecodeSide({ staging: { bays, bayBytes }, fence: 'exit', limits })
  side.open(prefill).reserve().message(prefill, { k: 'accept', ep: 1, state: 'paired' })
  return side.clear()
}

const parts = [{ component: 'kv', layers: [0, 2], first: 0, count: 3 }]
const stage = (side: DecodeSide, load = 1, ep = 1) =>
  side.message(prefill, { k: 'stage', ep, load, bytes: 3 * kvBytes, ms: 750 })
const staged = (side: DecodeSide, load = 1) =>
  side.message(prefill, { k: 'staged', ep: 1, load, parts })
const ended = (side: DecodeSide, load = 1) =>
  side.step({ type: 'scattered', request: 1, epoch: 1, load })

test('bays are given in the order in which they were asked for, and again when they are free', () => {
  const side = decodeSide()
  expect(stage(side, 1).take().sent).toEqual(['bay(1, 0)'])
  expect(stage(stage(side, 2), 3).take().sent).toEqual([])
  expect(staged(side).take().world).toEqual(['scatter'])
  expect(ended(side).take().sent).toEqual(['bay(2, 0)', 'scattered(1)'])
})

test('what is asked again is answered again, and done once', () => {
  const side = decodeSide()
  expect(stage(stage(side)).take().sent).toEqual(['bay(1, 0)', 'bay(1, 0)'])
  expect(staged(staged(side)).take().world).toEqual(['scatter'])
  ended(side).clear()
  expect(staged(side).take()).toMatchObject({ sent: ['scattered(1)'], world: [] })
  expect(stage(side).take().sent).toEqual(['bay(1, none)'])
})

test('who waits for a bay as long as prefill does is told that there is none', () => {
  const side = stage(stage(decodeSide()), 2).clear()
  expect(side.pass(700, prefill).take().sent).toEqual([])
  expect(side.pass(100, prefill).take().sent).toEqual(['bay(2, none)'])
  expect(side.left()).toContain('bays: 1')
})

test('without staging memory there is no bay', () => {
  const side = new DecodeSide()
  side.open(prefill).reserve().message(prefill, { k: 'accept', ep: 1, state: 'paired' }).clear()
  expect(stage(side).take().sent).toEqual(['bay(1, none)'])
})

test('a bay that may be written to is free when prefill has drained', () => {
  const side = stage(decodeSide()).hostAbort()
  expect(side.left()).toContain('bays: 1')
  side.message(prefill, { k: 'drained', ep: 1 })
  expect([side.where(), side.left()]).toEqual(['gone', ''])
})

test('a bay that a lost prefill may write to is free when it is fenced', () => {
  const side = stage(decodeSide()).down(prefill).pass(6_500)
  expect(side.left()).toContain('bays: 1')
  side.step({ type: 'fenced', writer: prefill.writer })
  expect([side.where(), side.left()]).toEqual(['gone', ''])
})

test('pages and bay stay taken until the copy has ended, also when prefill has drained', () => {
  const side = staged(stage(decodeSide())).hostAbort()
  side.message(prefill, { k: 'drained', ep: 1 })
  expect([side.where(), side.left()]).toEqual(['failed', 'requests: 1, bays: 1'])
  expect(ended(side).take().sent).not.toContain('scattered(1)')
  expect([side.where(), side.left()]).toEqual(['gone', ''])
})

test('what waits for a bay leaves the queue with its request', () => {
  const side = stage(stage(decodeSide()), 2).hostAbort()
  expect(side.left()).not.toContain('loads that wait')
})

test('what waits for a bay is given none by the end of its own request', () => {
  const side = stage(stage(decodeSide()), 2).clear()
  const { sent } = side.message(prefill, { k: 'status', ep: 1, state: 'over', units: 0 }).take()
  expect(sent.filter((one) => one.startsWith('bay'))).toEqual([])
  expect(side.left()).not.toContain('bays')
})

test('an engine that was replaced has other bays', () => {
  const side = new DecodeSide({ staging: { bays: 1, bayBytes }, fence: 'engine' })
  side.open(prefill).reserve().message(prefill, { k: 'accept', ep: 1, state: 'paired' })
  staged(stage(side)).hostAbort().recycled()
  expect(side.state.bays.taken).toEqual([false])
  // The copy of the old engine ends afterwards.
  ended(side)
  expect([side.where(), side.state.bays.taken]).toEqual(['gone', [false]])
})

test('the pages are those of the request, whatever prefill says of its own', () => {
  const side = staged(stage(decodeSide())).take()
  const [scatter] = side.effects.flatMap((effect) => (effect.do === 'scatter' ? [effect] : []))
  expect([...(scatter?.plan.groups ?? [])].filter((_, i) => i % 3 === 1)).toEqual([5, 6, 7])
  expect(int32(...(scatter?.plan.blocks ?? []))).toEqual(int32(0, 3, 0, 4))
})
