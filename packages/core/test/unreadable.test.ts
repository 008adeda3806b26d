/** What becomes of a frame that is no message of this version, over real sockets. */
import { setImmediate as nextTurn } from 'node:timers/promises'
import { afterEach, expect, test } from 'vitest'
import { promptDigest } from '../src/shape/index.ts'
import type { KVManager } from '../src/manager/index.ts'
import { chunkOf, openLegs, openPair, pageTokens } from './support/pair.ts'
import { RawDecode } from './support/raw-decode.ts'
import { RawPrefill } from './support/raw-prefill.ts'

const open: { close(): Promise<void> | void }[] = []
afterEach(async () => {
  for (const one of open.splice(0).reverse()) await one.close()
})

const digest = promptDigest([1, 2, 3, 4])
const tokens = pageTokens

/** The counters of the state behind it. */
function droppedBy(manager: KVManager) {
  return (manager as unknown as { state: { dropped: Map<string, number> } }).state.dropped
}

async function pair() {
  const side = await openPair()
  open.push(side)
  return {
    ...side,
    dropped: droppedBy(side.prefill),
    droppedByDecode: droppedBy(side.decode),
  }
}

/** One whole request between the honest. */
async function exchange(side: Awaited<ReturnType<typeof pair>>) {
  const { receiver, sender } = await openLegs(side, 7n, { tokens, digest }, [3])
  await sender.write(chunkOf(4, 0, Int32Array.of(0)))
  await Promise.all([sender.finish(), receiver.done])
}

async function stranger(side: Awaited<ReturnType<typeof pair>>) {
  const peer = new RawDecode(39)
  open.push(peer)
  await peer.connect(side.from, side.engine)
  return peer
}

/** Nested deeper than the codec of the receiver reads. */
const noise = { list: Array.from({ length: 20 }).reduce<unknown>((inner) => [inner], 0) }

test.each([1, 3])(
  'a hello of version %i is counted and refused with both versions, and the manager serves others',
  async (v) => {
    const side = await pair()
    const peer = await stranger(side)
    peer.hello({ v, speaks: [v, v] })
    expect(await peer.hear('refuse')).toMatchObject({
      to: peer.incarnation,
      gen: peer.generation,
      code: 'ERR_KVX_VERSION_MISMATCH',
      text: expect.stringContaining(`version ${String(v)}; this side speaks 2`) as string,
    })
    expect(side.dropped).toEqual(new Map([['ERR_KVX_VERSION_MISMATCH', 1]]))
    await exchange(side)
  },
)

test('a hello says the lowest and the highest version that decode speaks, and one that speaks later ones too is welcomed', async () => {
  const side = await pair()
  const prefill = await RawPrefill.open()
  open.push(prefill)
  const receiver = side.decode.receive(1n, { from: prefill.from, tokens, digest })
  expect(await prefill.hear('hello')).toMatchObject({ v: 2, speaks: [2, 2] })
  receiver.abort()
  const peer = await stranger(side)
  peer.hello({ speaks: [2, 7] })
  expect(await peer.hear('welcome')).toMatchObject({ v: 2 })
  await exchange(side)
})

test.each([
  ['does not speak the version that it is in', [3, 4]],
  ['speaks no version at all', [2, 1]],
])('a hello that %s is refused', async (_, speaks) => {
  const side = await pair()
  const peer = await stranger(side)
  peer.hello({ speaks })
  expect(await peer.hear('refuse')).toMatchObject({
    code: 'ERR_KVX_PROTOCOL',
    text: "A 'hello' message does not fit at 'speaks'.",
  })
})

test('an unknown kind of message is counted and refused, and its connection goes on', async () => {
  const side = await pair()
  const peer = await RawDecode.greeted(side.from, side.engine)
  open.push(peer)
  peer.say('gossip')
  const refused = await peer.hear('refuse')
  expect(refused).toMatchObject({ code: 'ERR_KVX_PROTOCOL', gen: peer.generation })
  expect(refused.text).toBe('Unknown kind of message: gossip.')
  expect(side.dropped).toEqual(new Map([['ERR_KVX_PROTOCOL', 1]]))
  peer.say('ping', { live: 0 })
  await peer.hear('pong')
})

test('a message that does not fit its schema is refused without an epoch, so that its pages stay taken', async () => {
  const side = await pair()
  const peer = await RawDecode.greeted(side.from, side.engine)
  open.push(peer)
  peer.say('pages', { ep: 1, pages: 'none' })
  const refused = await peer.hear('refuse')
  expect(refused).toMatchObject({ code: 'ERR_KVX_PROTOCOL' })
  expect(refused.ep).toBeUndefined()
})

test('a frame of which nothing can be read is answered to who has said hello, and to nobody else', async () => {
  const side = await pair()
  const silent = await stranger(side)
  silent.say('noise', noise)
  // In a frame of its own: what follows in the same one would be lost.
  await nextTurn()
  silent.say('ping', { live: 0 })
  // On the same connection, so what was said before has been heard once this has.
  expect(await silent.hear('refuse')).toMatchObject({ code: 'ERR_KVX_INVALID_STATE' })
  expect(silent.heard).toHaveLength(1)
  const peer = await RawDecode.greeted(side.from, side.engine)
  open.push(peer)
  peer.say('noise', noise)
  expect(await peer.hear('refuse')).toMatchObject({
    to: peer.incarnation,
    gen: peer.generation,
    code: 'ERR_KVX_PROTOCOL',
  })
  expect(side.dropped.get('ERR_KVX_PROTOCOL')).toBe(2)
})

test('a refusal is never refused: each frame has one answer at most', async () => {
  const side = await pair()
  const peer = await RawDecode.greeted(side.from, side.engine)
  open.push(peer)
  peer.say('refuse', { v: 3, code: 'ERR_KVX_VERSION_MISMATCH', text: 'no' })
  peer.say('refuse', { code: 'ERR_KVX_OF_TOMORROW', text: 'no' })
  peer.say('ping', { live: 0 })
  await peer.hear('pong')
  expect(peer.heard.map(({ k }) => k)).toEqual(['welcome', 'pong'])
  expect([...side.dropped.values()]).toEqual([1, 1])
})

test.each<[string, (prefill: RawPrefill) => void]>([
  [
    'refuses in its own',
    (prefill) => {
      prefill.say('refuse', { v: 3, code: 'ERR_KVX_VERSION_MISMATCH', text: 'speak 3' })
    },
  ],
  [
    'welcomes in its own',
    (prefill) => {
      prefill.welcome({ v: 3 })
    },
  ],
  [
    'refuses in that of decode',
    (prefill) => {
      prefill.say('refuse', { code: 'ERR_KVX_VERSION_MISMATCH', text: 'speak 3' })
    },
  ],
])('a prefill of another version that %s fails the request at once', async (_, answer) => {
  const side = await pair()
  const prefill = await RawPrefill.open()
  open.push(prefill)
  // No deadline ends within this test.
  const deadlines = { hello: 3_600_000, probe: 3_600_000 }
  const receiver = side.decode.receive(1n, { from: prefill.from, tokens, digest, deadlines })
  await prefill.hear('hello')
  answer(prefill)
  await expect(receiver.done).rejects.toMatchObject({
    code: 'ERR_KVX_VERSION_MISMATCH',
    phase: 'hello',
    peer: 'raw',
  })
  await receiver.settled
  await exchange(side)
})

test('decode counts what it does not understand, and its requests go on', async () => {
  const side = await pair()
  const prefill = await RawPrefill.open()
  open.push(prefill)
  const receiver = side.decode.receive(1n, { from: prefill.from, tokens, digest })
  await prefill.hear('hello')
  prefill.welcome()
  const reserved = receiver.reserve({ pages: Int32Array.of(37) })
  const { ep } = await prefill.hear('reserve')
  prefill.say('gossip')
  prefill.say('accept', { v: 3, ep, state: 'paired' })
  prefill.say('noise', noise)
  await nextTurn()
  prefill.say('accept', { ep, state: 'paired' })
  await reserved
  expect(side.droppedByDecode).toEqual(
    new Map([
      ['ERR_KVX_PROTOCOL', 2],
      ['ERR_KVX_VERSION_MISMATCH', 1],
    ]),
  )
  receiver.abort()
})
