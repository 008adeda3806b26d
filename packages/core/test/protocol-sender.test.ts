import { describe, expect, test } from 'vitest'
import { KvxError } from '@kvx/contract'
import { makeRank, sendObjection } from '../src/protocol/index.ts'
import {
  deadlines,
  digest,
  int32,
  kvBytes,
  layers,
  limits,
  name128,
  kv,
  onWire,
  packed,
  statePages,
  unitsOf,
  rank,
  smallCache,
  type Cache,
} from './protocol/fixtures.ts'
import { blocksOf, decoder, PrefillSide } from './protocol/prefill-side.ts'
import { opaqueParts } from './protocol/plain.ts'

const d1 = decoder(1)
const d2 = decoder(2)
const connected = () => new PrefillSide().connect(d1).clear()

/** A side whose epoch 1 is in the named phase. */
const places = {
  unknown: connected,
  parked: () => connected().reserve(d1, 1),
  paired: () => connected().send().reserve(d1, 1),
  'paired without pages': () => connected().send().reserve(d1, 1, { pages: undefined }),
  writing: () => connected().send().reserve(d1, 1).write(),
  'waiting for pages': () => connected().send().reserve(d1, 1, { pages: undefined }).write(),
  complete: () => connected().send().reserve(d1, 1).write().landed().finish(),
  'failed, may still land': () => connected().send().reserve(d1, 1).write().failed(),
  failed: () => connected().send().reserve(d1, 1).write().failed().settled(),
  over: () =>
    connected().send().reserve(d1, 1).write().landed().finish().message(d1, { k: 'ack', ep: 1 }),
} satisfies Record<string, () => PrefillSide>

const events = {
  'reserve of it': (p: PrefillSide) => p.reserve(d1, 1),
  'reserve of the next epoch for the same room': (p: PrefillSide) => p.reserve(d1, 2),
  pages: (p: PrefillSide) => p.message(d1, { k: 'pages', ep: 1, pages: kv(5, 6, 7) }),
  query: (p: PrefillSide) => p.message(d1, { k: 'query', ep: 1 }),
  abort: (p: PrefillSide) => p.abort(d1, 1),
  ack: (p: PrefillSide) => p.message(d1, { k: 'ack', ep: 1 }),
  'the host sends': (p: PrefillSide) => p.send(),
  'the host sends another prompt': (p: PrefillSide) => p.send(1, { digest: digest(2) }),
  'the host asks for pages': (p: PrefillSide) => p.step({ type: 'host.ready', sender: 1 }),
  'the host writes': (p: PrefillSide) => p.write(),
  'the host finishes': (p: PrefillSide) => p.finish(),
  'the host aborts': (p: PrefillSide) => p.hostAbort(),
  'the write is done': (p: PrefillSide) => p.done(),
  'the write fails': (p: PrefillSide) => p.failed(),
  'the write does not end in time': (p: PrefillSide) => p.tick(deadlines.transfer),
  'the write settles': (p: PrefillSide) => p.settled(),
  'the write lands': (p: PrefillSide) => p.landed(),
  'the connection is lost': (p: PrefillSide) =>
    p.step({ type: 'disconnected', connection: d1.connection }),
  'decode says hello again': (p: PrefillSide) => p.hello(decoder(1, { connection: 'c1b' })),
  'decode says hello with a new generation': (p: PrefillSide) =>
    p.hello(decoder(1, { gen: name128('H', 1) })),
  'a new decode process says hello': (p: PrefillSide) =>
    p.hello(decoder(2, { instance: d1.instance })),
  'decode is silent for too long': (p: PrefillSide) => p.tick(deadlines.peerSilent + 1),
  'the engine of decode is gone': (p: PrefillSide) =>
    p.step({ type: 'peer.gone', generation: d1.gen, reason: 'Its process has exited.' }),
  'the engine of another is gone': (p: PrefillSide) =>
    p.step({ type: 'peer.gone', generation: name128('H', 9), reason: 'Its process has exited.' }),
  'the pairing deadline passes': (p: PrefillSide) => p.pass(deadlines.pairing, d1),
  'the progress deadline passes': (p: PrefillSide) => p.pass(deadlines.progress, d1),
  'the linger passes': (p: PrefillSide) => p.pass(deadlines.linger, d1),
} satisfies Record<string, (p: PrefillSide) => PrefillSide>

type Place = keyof typeof places
type Event = keyof typeof events
/** Present state, event, next state, messages sent, host told. */
type Row = readonly [Place, Event, string, readonly string[], readonly string[]]

const failing = 'failed, unsettled'
const rows: readonly Row[] = [
  ['unknown', 'reserve of it', 'parked', ['accept(parked)'], []],
  ['unknown', 'pages', 'over', [], []],
  ['unknown', 'query', 'over', ['status(over)'], []],
  ['unknown', 'abort', 'over', ['drained'], []],
  ['unknown', 'ack', 'over', [], []],
  ['unknown', 'the connection is lost', 'unknown', [], []],
  ['unknown', 'decode says hello again', 'unknown', ['welcome'], []],
  ['unknown', 'decode is silent for too long', 'unknown', [], []],

  ['parked', 'reserve of it', 'parked', ['status(parked)'], []],
  ['parked', 'reserve of the next epoch for the same room', 'parked', ['refuse(ROOM_IN_USE)'], []],
  ['parked', 'pages', 'parked', [], []],
  ['parked', 'query', 'parked', ['status(parked)'], []],
  ['parked', 'abort', 'over', ['drained'], []],
  ['parked', 'ack', 'parked', [], []],
  ['parked', 'the host sends', 'paired', ['accept(paired)'], ['reserved(0)']],
  [
    'parked',
    'the host sends another prompt',
    'failed',
    ['failed(PROMPT_MISMATCH)', 'drained'],
    ['failed(PROMPT_MISMATCH)', 'settled'],
  ],
  ['parked', 'the connection is lost', 'parked', [], []],
  ['parked', 'decode says hello again', 'parked', ['welcome'], []],
  ['parked', 'decode says hello with a new generation', 'over', [], []],
  ['parked', 'a new decode process says hello', 'unknown', [], []],
  ['parked', 'decode is silent for too long', 'unknown', [], []],
  ['parked', 'the pairing deadline passes', 'failed', ['failed(ROOM_UNKNOWN)', 'drained'], []],

  ['paired', 'reserve of it', 'paired', ['status(paired)'], []],
  ['paired', 'reserve of the next epoch for the same room', 'paired', ['refuse(ROOM_IN_USE)'], []],
  ['paired', 'pages', 'paired', [], []],
  ['paired', 'query', 'paired', ['status(paired)'], []],
  ['paired', 'abort', 'over', ['drained'], ['failed(ABORTED)', 'settled']],
  ['paired', 'ack', 'paired', [], []],
  ['paired', 'the host asks for pages', 'paired', [], []],
  ['paired', 'the host writes', 'paired, unsettled', [], ['posted(1)']],
  ['paired', 'the host finishes', 'paired', [], ['rejected(INVALID_ARGUMENT)']],
  [
    'paired',
    'the host aborts',
    'failed',
    ['failed(ABORTED)', 'drained'],
    ['failed(ABORTED)', 'settled'],
  ],
  ['paired', 'the connection is lost', 'paired', [], []],
  ['paired', 'decode says hello again', 'paired', ['welcome'], []],
  [
    'paired',
    'decode says hello with a new generation',
    'over',
    [],
    ['failed(TRANSFER_FAILED)', 'settled'],
  ],
  ['paired', 'a new decode process says hello', 'unknown', [], ['failed(PEER_LOST)', 'settled']],
  ['paired', 'decode is silent for too long', 'unknown', [], ['failed(PEER_LOST)', 'settled']],
  ['paired', 'the engine of decode is gone', 'unknown', [], ['failed(PEER_LOST)', 'settled']],
  ['paired', 'the engine of another is gone', 'paired', [], []],
  ['paired', 'the pairing deadline passes', 'paired', [], []],

  ['paired without pages', 'reserve of it', 'paired', ['status(paired)'], []],
  ['paired without pages', 'query', 'paired', ['status(paired)'], []],
  ['paired without pages', 'the host asks for pages', 'paired', ['ready'], []],
  ['paired without pages', 'pages', 'paired', [], []],
  ['paired without pages', 'the host writes', 'paired, unsettled', ['ready'], []],
  ['paired without pages', 'abort', 'over', ['drained'], ['failed(ABORTED)', 'settled']],
  ['paired without pages', 'the progress deadline passes', 'paired', [], []],

  ['waiting for pages', 'pages', 'paired, unsettled', [], ['posted(1)']],
  ['waiting for pages', 'query', 'paired, unsettled', ['status(paired)', 'ready'], []],
  ['waiting for pages', 'the host asks for pages', 'paired, unsettled', [], []],
  ['waiting for pages', 'abort', 'over', ['drained'], ['failed(ABORTED)', 'settled']],
  [
    'waiting for pages',
    'the host aborts',
    'failed',
    ['failed(ABORTED)', 'drained'],
    ['failed(ABORTED)', 'settled'],
  ],
  [
    'waiting for pages',
    'decode is silent for too long',
    'unknown',
    [],
    ['failed(PEER_LOST)', 'settled'],
  ],
  [
    'waiting for pages',
    'the progress deadline passes',
    'failed',
    ['failed(TIMEOUT)', 'drained'],
    ['failed(TIMEOUT)', 'settled'],
  ],

  ['writing', 'reserve of it', 'paired, unsettled', ['status(paired)'], []],
  ['writing', 'pages', 'paired, unsettled', [], []],
  ['writing', 'query', 'paired, unsettled', ['status(paired)'], []],
  ['writing', 'abort', failing, [], ['failed(ABORTED)']],
  ['writing', 'ack', 'paired, unsettled', [], []],
  ['writing', 'the write is done', 'paired, unsettled', ['progress(24)'], []],
  ['writing', 'the write lands', 'paired', ['progress(24)'], []],
  ['writing', 'the write fails', failing, ['failed(TRANSFER_FAILED)'], ['failed(TRANSFER_FAILED)']],
  [
    'writing',
    'the write does not end in time',
    failing,
    ['failed(TRANSFER_TIMEOUT)'],
    ['failed(TRANSFER_TIMEOUT)'],
  ],
  ['writing', 'the host finishes', 'paired, unsettled', [], []],
  ['writing', 'the host aborts', failing, ['failed(ABORTED)'], ['failed(ABORTED)']],
  ['writing', 'the connection is lost', 'paired, unsettled', [], []],
  ['writing', 'decode says hello again', 'paired, unsettled', ['welcome'], []],
  ['writing', 'decode says hello with a new generation', failing, [], ['failed(TRANSFER_FAILED)']],
  ['writing', 'a new decode process says hello', failing, [], ['failed(PEER_LOST)']],
  ['writing', 'decode is silent for too long', failing, [], ['failed(PEER_LOST)']],
  ['writing', 'the engine of decode is gone', failing, [], ['failed(PEER_LOST)']],
  ['writing', 'the engine of another is gone', 'paired, unsettled', [], []],

  ['failed, may still land', 'reserve of it', failing, ['status(failed)'], []],
  [
    'failed, may still land',
    'reserve of the next epoch for the same room',
    failing,
    ['refuse(TRANSFER_FAILED)'],
    [],
  ],
  ['failed, may still land', 'pages', failing, [], []],
  ['failed, may still land', 'query', failing, ['status(failed)'], []],
  ['failed, may still land', 'abort', failing, [], []],
  ['failed, may still land', 'ack', failing, [], []],
  ['failed, may still land', 'the write settles', 'failed', ['drained'], ['settled']],
  ['failed, may still land', 'the host aborts', failing, [], []],
  [
    'failed, may still land',
    'decode says hello again',
    failing,
    ['welcome', 'failed(TRANSFER_FAILED)'],
    [],
  ],
  ['failed, may still land', 'decode is silent for too long', failing, [], []],
  ['failed, may still land', 'the linger passes', failing, [], []],

  ['failed', 'reserve of it', 'failed', ['status(failed)', 'drained'], []],
  ['failed', 'query', 'failed', ['status(failed)', 'drained'], []],
  ['failed', 'abort', 'over', ['drained'], []],
  ['failed', 'ack', 'over', [], []],
  ['failed', 'the write is done', 'failed', [], []],
  ['failed', 'the write settles', 'failed', [], []],
  [
    'failed',
    'decode says hello again',
    'failed',
    ['welcome', 'failed(TRANSFER_FAILED)', 'drained'],
    [],
  ],
  ['failed', 'the linger passes', 'over', [], []],

  ['complete', 'reserve of it', 'complete', ['status(complete)'], []],
  [
    'complete',
    'reserve of the next epoch for the same room',
    'complete',
    ['refuse(ROOM_IN_USE)'],
    [],
  ],
  ['complete', 'pages', 'complete', [], []],
  ['complete', 'query', 'complete', ['status(complete)'], []],
  ['complete', 'abort', 'over', ['drained'], ['failed(ABORTED)', 'settled']],
  ['complete', 'ack', 'over', [], ['finished', 'settled']],
  [
    'complete',
    'the host aborts',
    'failed',
    ['failed(ABORTED)', 'drained'],
    ['failed(ABORTED)', 'settled'],
  ],
  ['complete', 'the connection is lost', 'complete', [], []],
  ['complete', 'decode says hello again', 'complete', ['welcome', 'complete'], []],
  [
    'complete',
    'decode says hello with a new generation',
    'over',
    [],
    ['failed(TRANSFER_FAILED)', 'settled'],
  ],
  ['complete', 'decode is silent for too long', 'unknown', [], ['failed(PEER_LOST)', 'settled']],
  [
    'complete',
    'the linger passes',
    'failed',
    ['failed(TIMEOUT)', 'drained'],
    ['failed(TIMEOUT)', 'settled'],
  ],

  ['over', 'reserve of it', 'over', ['refuse(STALE)'], []],
  ['over', 'pages', 'over', [], []],
  ['over', 'query', 'over', ['status(over)'], []],
  ['over', 'abort', 'over', ['drained'], []],
  ['over', 'ack', 'over', [], []],
  ['over', 'the host aborts', 'over', [], []],
  ['over', 'the write is done', 'over', [], []],
  ['over', 'decode says hello again', 'over', ['welcome'], []],
]

test.each(rows)(
  'an epoch that is %s, and %s: then it is %s, sent %j, host told %j',
  (place, event, next, sent, told) => {
    const p = places[place]().clear()
    events[event](p)
    const did = p.take()
    expect(did.sent).toEqual(sent)
    expect(did.told).toEqual(told)
    expect(p.where(d1, 1)).toBe(next)
  },
)

test.each([
  ['that was replaced', 'another process has registered in its place. P2 is the newer one.'],
  ['that is about to end', 'it is about to end.'],
])('a prefill rank %s tells decode so, of what is parked and of what is new', (which, why) => {
  const p = connected().reserve(d1, 1).clear()
  const replaced =
    which === 'that was replaced'
      ? new KvxError('ERR_KVX_DRAINING', 'P2 is the newer one.')
      : undefined
  p.step({ type: 'host.drain', replaced }).reserve(d1, 2, { room: 10n })
  const text = `prefill prefill-a (tp0/pp0/cp0/dp0) takes no new requests: ${why}`
  const about = { code: 'ERR_KVX_DRAINING', text, peer: 'prefill-a' }
  const { messages } = p.take()
  expect(messages).toContainEqual(expect.objectContaining({ k: 'failed', ep: 1, ...about }))
  expect(messages).toContainEqual(expect.objectContaining({ k: 'refuse', ep: 2, ...about }))
})

test('whatever happens to an epoch, an abort of it is answered by drained once its writes have settled', () => {
  for (const place of Object.keys(places) as Place[]) {
    const p = places[place]().clear().abort(d1, 1)
    for (const piece of [...p.state.pieces.keys()]) p.settled(piece)
    const { sent } = p.take()
    expect([place, sent.filter((kind) => kind === 'drained')]).toEqual([place, ['drained']])
    expect([place, p.where(d1, 1)]).toEqual([place, 'over'])
  }
})

test('whatever happened, the state is plain data: no closures, and nothing that hides its parts', () => {
  for (const place of Object.keys(places) as Place[]) {
    for (const event of Object.keys(events) as Event[]) {
      const p = places[place]()
      events[event](p)
      expect([place, event, opaqueParts(p.state)]).toEqual([place, event, []])
    }
  }
})

test('whatever happened, nothing is left after the linger once all writes have settled', () => {
  for (const place of Object.keys(places) as Place[]) {
    for (const event of Object.keys(events) as Event[]) {
      const p = places[place]()
      events[event](p)
      p.hostAbort()
      for (const { incarnation, connecting } of [...p.state.peers.values()]) {
        const error = new KvxError('ERR_KVX_CONNECT_FAILED', 'late')
        if (connecting)
          p.step({ type: 'link.failed', peer: incarnation, generation: connecting, error })
      }
      for (const piece of [...p.state.pieces.keys()]) p.settled(piece)
      p.pass(deadlines.pairing + deadlines.linger + deadlines.peerSilent)
      expect([place, event, p.left()]).toEqual([place, event, ''])
      expect([place, event, p.state.peers.size]).toEqual([place, event, 0])
    }
  }
})

// Writing

test('a leg waits as long as decode says that it is queued there, and no longer than the queue deadline', () => {
  const p = connected().send().clear()
  for (let waited = 0; waited < deadlines.queue - 10_000; waited += 10_000)
    p.pass(10_000, d1).queuedAt(d1, 9n)
  expect(deadlines.queue - 10_000).toBeGreaterThan(2 * deadlines.pairing)
  expect(p.sender()).toBe('waiting')
  p.pass(9_999, d1).queuedAt(d1, 9n)
  expect(p.take().told).toEqual([])
  const { effects } = p.pass(1, d1).take()
  expect(effects).toContainEqual(
    expect.objectContaining({
      do: 'sender.failed',
      error: expect.objectContaining({
        code: 'ERR_KVX_TIMEOUT',
        peer: 'decode-1',
        message: expect.stringContaining('in its queue for 70000 ms') as string,
      }) as object,
    }),
  )
})

test('a leg that was queued at decode ends at the pairing deadline when decode says nothing of it any more', () => {
  const p = connected().send().pass(15_000, d1).queuedAt(d1, 9n).clear()
  expect(p.pass(deadlines.pairing - 1, d1).take().told).toEqual([])
  expect(p.pass(1, d1).take().told).toEqual(['failed(TIMEOUT)', 'settled'])
})

test('what was queued at a decode rank that is lost fails at once with its name, and nothing else does', () => {
  const p = connected().connect(d2).send(1).send(2, { room: 10n }).send(3, { room: 11n })
  p.queuedAt(d1, 9n).queuedAt(d2, 10n).clear()
  p.pass(deadlines.peerSilent + 1_000, d2)
  const failed = p.take().effects.filter((effect) => effect.do === 'sender.failed')
  expect(failed).toMatchObject([
    { sender: 1, error: { code: 'ERR_KVX_PEER_LOST', peer: 'decode-1', phase: 'reserve' } },
  ])
})

test('prefill says that a paired request is queued from the call of its host until the first write', () => {
  const p = places.paired().clear()
  const queued = () => {
    const last = p.message(d1, { k: 'query', ep: 1 }).take().messages.at(-1)
    return last?.k === 'status' ? last.queued : 'no status'
  }
  expect(queued()).toBeUndefined()
  p.step({ type: 'host.queued', sender: 1, queued: true })
  expect(queued()).toBe(true)
  p.step({ type: 'host.queued', sender: 1, queued: false })
  expect(queued()).toBeUndefined()
  p.step({ type: 'host.queued', sender: 1, queued: true }).write()
  expect(queued()).toBeUndefined()
})

test('late allocation: the write asks for pages, and goes out when they are provided', () => {
  const p = places['paired without pages']().clear().write()
  expect(p.take()).toMatchObject({ sent: ['ready'], told: [], engine: [] })
  p.message(d1, { k: 'pages', ep: 1, pages: kv(9, 3, 4) })
  expect(p.take()).toMatchObject({ sent: [], told: ['posted(1)'], engine: ['post'] })
  expect(p.posts.map(blocksOf).at(-1)).toEqual([
    { source: [0, 1, 2], destination: [9, 3, 4], lanes: 2 * layers },
  ])
})

test('late allocation: a host that asks before decode is there has its wish passed on at pairing', () => {
  const p = connected()
    .send()
    .step({ type: 'host.ready', sender: 1 })
    .clear()
    .reserve(d1, 1, { pages: undefined })
  expect(p.take().sent).toEqual(['accept(paired)', 'ready'])
})

test('a request has a linger of its own: its end is remembered for so long', () => {
  const linger = 3 * deadlines.linger
  const p = connected().send(1, { deadlines: { linger } }).hostAbort().clear()
  p.pass(linger - deadlines.ping, d1)
    .clear()
    .reserve(d1, 1)
  expect(p.take().sent).toEqual(['refuse(ABORTED)'])
  p.pass(deadlines.ping, d1).clear().reserve(d1, 2)
  expect(p.take().sent).toEqual(['accept(parked)'])
})

test('a failure that is not acknowledged is remembered for the linger of its request', () => {
  const linger = 3 * deadlines.linger
  const p = connected().send(1, { deadlines: { linger } }).reserve(d1, 1).hostAbort()
  p.pass(linger - deadlines.ping, d1)
  expect(p.where(d1, 1)).toBe('failed')
  p.pass(deadlines.ping, d1)
  expect(p.where(d1, 1)).toBe('over')
})

test('late allocation: one request without pages holds up no other', () => {
  const p = places['waiting for pages']()
    .send(2, { room: 10n })
    .reserve(d1, 2, { room: 10n })
    .clear()
  p.write(0, int32(3, 4, 5), 1, undefined, 2)
  expect(p.take()).toMatchObject({ told: ['posted(1)'], engine: ['post'] })
})

test('what decode holds as prefix is neither sent nor needed, and the rest goes to the right pages', () => {
  const p = connected()
    .send()
    .reserve(d1, 1, { prefix: 4, pages: kv(8, 9) })
  expect(p.take().told).toEqual(['reserved(4)'])
  p.write(0, int32(11, 12, 13))
  expect(p.posts.map(blocksOf).at(-1)).toMatchObject([{ source: [12, 13], destination: [8, 9] }])
  p.landed().finish()
  const { messages } = p.take()
  expect(messages.at(-1)).toMatchObject({
    k: 'complete',
    manifest: { parts: { kv: { units: unitsOf(2), bytes: 2 * kvBytes } }, chunks: 1 },
  })
})

test('a write that lies wholly in the prefix succeeds without moving anything', () => {
  const p = connected()
    .send()
    .reserve(d1, 1, { prefix: 8, pages: kv(8) })
    .clear()
    .write(0, int32(11, 12))
  expect(p.take()).toMatchObject({ told: ['posted(1)'], engine: [] })
})

test('a prompt that decode holds whole completes without a write', () => {
  const p = connected().send().reserve(d1, 1, { prefix: 12, pages: kv() }).clear().finish()
  expect(p.take().messages.at(-1)).toMatchObject({
    k: 'complete',
    manifest: { parts: {}, chunks: 0 },
  })
})

test('layer by layer and in any order: what has landed is counted in tokens times layers', () => {
  const p = places.paired().clear()
  p.write(2, int32(2), 1, [1, 2]).landed().write(0, int32(0, 1), 2, [0, 1]).landed()
  p.write(0, int32(0, 1), 3, [1, 2]).landed().write(2, int32(2), 4, [0, 1]).landed()
  expect(p.take().sent).toEqual(['progress(4)', 'progress(12)', 'progress(20)', 'progress(24)'])
  p.finish()
  expect(p.take().messages.at(-1)).toMatchObject({
    k: 'complete',
    manifest: { parts: { kv: { units: unitsOf(3), bytes: 3 * kvBytes } }, chunks: 4 },
  })
})

const refusedWrites: [string, (p: PrefillSide) => PrefillSide][] = [
  ['a page that was written', (p) => p.write(0, int32(0)).clear().write(0, int32(0), 2)],
  [
    'one layer of a page that was written whole',
    (p) => p.write(0, int32(0)).clear().write(0, int32(0), 2, [1, 2]),
  ],
  [
    'another source page for a further layer',
    (p) => p.write(0, int32(0), 1, [0, 1]).clear().write(0, int32(7), 2, [1, 2]),
  ],
  ['pages beyond the prompt', (p) => p.write(1, int32(0, 1, 2))],
  ['a negative start', (p) => p.write(-1, int32(0))],
  ['no token', (p) => p.writeParts({ tokens: [4, 4], pages: { kv: int32() } })],
  ['pages without their tokens', (p) => p.writeParts({ pages: { kv: int32(0) } })],
  [
    'fewer pages than its tokens lie in',
    (p) => p.writeParts({ tokens: [0, 8], pages: { kv: int32(0) } }),
  ],
  [
    'more pages than its tokens lie in',
    (p) => p.writeParts({ tokens: [0, 8], pages: { kv: int32(0, 1, 2) } }),
  ],
  [
    'tokens in the middle of a page that was not begun',
    (p) => p.writeParts({ tokens: [2, 4], pages: { kv: int32(0) } }),
  ],
  [
    'tokens in the middle of a page that only another layer has begun',
    (p) =>
      p
        .writeParts({ tokens: [0, 2], pages: { kv: int32(0) }, layers: [0, 1] })
        .clear()
        .writeParts({ tokens: [2, 4], pages: { kv: int32(0) }, write: 2 }),
  ],
  [
    'another source page for the rest of a page',
    (p) =>
      p
        .writeParts({ tokens: [0, 2], pages: { kv: int32(0) } })
        .clear()
        .writeParts({ tokens: [2, 4], pages: { kv: int32(1) }, write: 2 }),
  ],
  [
    'pages of a component that there is not',
    (p) => p.writeParts({ tokens: [0, 4], pages: { swa: int32(0) } }),
  ],
  [
    'pages of a component of state',
    (p) => p.writeParts({ tokens: [0, 4], pages: { mamba: int32(0) } }),
  ],
  [
    'pages of a component of the name __proto__',
    (p) => p.writeParts({ tokens: [0, 4], pages: Object.fromEntries([['__proto__', int32(0)]]) }),
  ],
  ['slots of a component of pages', (p) => p.writeParts({ state: { kv: int32(0) } })],
  [
    'a right list beside a wrong one',
    (p) => p.writeParts({ tokens: [0, 12], pages: { kv: int32(0, 1, 2), swa: int32() } }),
  ],
  ['a source page beyond the pool', (p) => p.write(0, int32(16))],
  ['a negative source page', (p) => p.write(0, int32(-1))],
  ['no layer', (p) => p.write(0, int32(0), 1, [1, 1])],
  ['layers that the model does not have', (p) => p.write(0, int32(0), 1, [0, 3])],
]
test.each(refusedWrites)('a write of %s is refused and changes nothing', (_what, write) => {
  const p = write(places.paired().clear())
  const did = p.take()
  expect(did.told).toEqual(['rejected(INVALID_ARGUMENT)'])
  expect(did.engine).toEqual([])
  expect(p.sender()).toMatch(/^paired/)
})

test('a write before decode has reserved, and one after finish, are refused', () => {
  expect(connected().send().clear().write().take().told).toEqual(['rejected(INVALID_STATE)'])
  expect(places.writing().finish().clear().write(0, int32(0), 2).take().told).toEqual([
    'rejected(INVALID_STATE)',
  ])
})

test('a write of a failed request is refused with the first cause', () => {
  expect(places['failed, may still land']().clear().write(0, int32(0), 2).take().told).toEqual([
    'rejected(TRANSFER_FAILED)',
  ])
})

test('finish names the first tokens and layer that were never written, and changes nothing', () => {
  const p = places
    .paired()
    .write(0, int32(0, 1))
    .landed()
    .write(2, int32(2), 2, [0, 1])
    .landed()
    .clear()
    .finish()
  const { effects } = p.take()
  const rejected = effects.find((effect) => effect.do === 'sender.rejected')
  expect(rejected?.error.message).toMatch(/tokens 8 to 12 of layer 1 of 'kv' were never written/)
  expect(effects).toHaveLength(1)
  p.write(2, int32(2), 3, [1, 2]).landed().finish()
  expect(p.take().sent).toContain('complete')
})

test('complete is not said before every write has settled, and finish may come before that', () => {
  const p = places.writing().clear().finish().done()
  expect(p.take().sent).toEqual(['progress(24)'])
  p.settled()
  expect(p.take().sent).toEqual(['complete'])
})

test('complete waits for the last of several writes, in whatever order they settle', () => {
  const p = places.paired()
  p.write(0, int32(0)).write(1, int32(1), 2).write(2, int32(2), 3).finish().clear()
  const [a, b, c] = p.posts.map(({ piece }) => piece)
  p.done(c).settled(c).done(a).settled(a)
  expect(p.take().sent).toEqual(['progress(8)', 'progress(16)'])
  p.done(b).settled(b)
  expect(p.take().sent).toEqual(['progress(24)', 'complete'])
})

test('the aux goes with complete, and an aux larger than agreed is refused and changes nothing', () => {
  const aux = {
    firstToken: 42,
    logprob: -1,
    cachedTokens: 3,
    blob: new Uint8Array(limits.auxBytes),
  }
  expect(places.writing().landed().clear().finish(aux).take().messages.at(-1)).toMatchObject({
    k: 'complete',
    aux: { firstToken: 42, cachedTokens: 3 },
  })
  const p = places
    .writing()
    .landed()
    .clear()
    .finish({ blob: new Uint8Array(limits.auxBytes + 1) })
  expect(p.take()).toMatchObject({
    sent: [],
    told: ['rejected(INVALID_ARGUMENT)'],
  })
  expect(p.finish(aux).take().sent).toEqual(['complete'])
})

test('state components go with finish, and complete waits for them', () => {
  const p = connected()
    .send()
    .reserve(d1, 1, { pages: { ...kv(5, 6, 7), mamba: packed(2) } })
    .write()
    .landed()
    .clear()
  p.finish({}, { mamba: int32(3) })
  expect(p.take()).toMatchObject({ sent: [], engine: ['post'] })
  expect(p.posts.map(blocksOf).at(-1)).toEqual([{ source: [3], destination: [2], lanes: 1 }])
  p.landed()
  expect(p.take().messages.at(-1)).toMatchObject({
    k: 'complete',
    manifest: { parts: { mamba: { units: 1, bytes: 8 } } },
  })
})

test.each([
  ['fewer than decode reserved', { mamba: int32() }],
  ['that are not named', {}],
  ['more than decode reserved', { mamba: int32(0, 1) }],
  ['of a component that there is not', { mamba: int32(0), swa: int32(0) }],
])('state pages %s are refused and change nothing', (_what, state) => {
  const p = connected()
    .send()
    .reserve(d1, 1, { pages: { ...kv(5, 6, 7), mamba: packed(2) } })
    .write()
    .landed()
    .clear()
    .finish({}, state)
  expect(p.take()).toMatchObject({ sent: [], told: ['rejected(INVALID_ARGUMENT)'], engine: [] })
  expect(p.finish({}, { mamba: int32(0) }).take().engine).toEqual(['post'])
})

test('a state page of prefill that does not exist is refused and changes nothing', () => {
  const p = connected()
    .send()
    .reserve(d1, 1, { pages: { ...kv(5, 6, 7), mamba: packed(2) } })
    .write()
    .landed()
    .clear()
    .finish({}, { mamba: int32(99) })
  expect(p.take()).toMatchObject({ told: ['rejected(INVALID_ARGUMENT)'], engine: [] })
  expect(p.finish({}, { mamba: int32(0) }).take().engine).toEqual(['post'])
})

test('a request of which neither side names a slot has no state', () => {
  const p = connected().send().reserve(d1, 1).write().landed().clear()
  expect(p.finish({}, {}).take()).toMatchObject({ sent: ['complete'], told: [] })
})

test('prefill that names no slot is told how many decode has reserved', () => {
  const text =
    "finish() of room 9/0: prefill has 0 slots of the state 'mamba' for this request, and decode reserved 1: a request has as many on both sides, or none."
  const pages = { ...kv(5, 6, 7), mamba: packed(2) }
  const early = connected().send().reserve(d1, 1, { pages }).write().landed().finish({}, {})
  const late = connected().send().reserve(d1, 1, { pages: undefined }).write().finish({}, {})
  late.message(d1, { k: 'pages', ep: 1, pages })
  for (const p of [early, late]) {
    const errors = p.take().effects.flatMap((effect) => ('error' in effect ? [effect.error] : []))
    expect(errors[0]).toMatchObject({ code: 'ERR_KVX_INVALID_ARGUMENT', message: text })
  }
})

test('late allocation: state pages are compared when they are known, before or after finish', () => {
  const late = () =>
    connected()
      .send()
      .reserve(d1, 1, { pages: undefined })
      .write()
      .finish({}, { mamba: int32(3) })
  const p = late().clear()
  p.message(d1, { k: 'pages', ep: 1, pages: { ...kv(5, 6, 7), mamba: packed(2) } })
  p.landed().landed(p.posts.at(-2)?.piece)
  expect(p.take().sent).toEqual(['progress(1)', 'progress(25)', 'complete'])
  const q = late()
    .clear()
    .message(d1, { k: 'pages', ep: 1, pages: kv(5, 6, 7) })
  expect(q.take()).toMatchObject({ told: ['failed(INVALID_ARGUMENT)', 'settled'], engine: [] })
})

test('late allocation: a prompt that decode holds whole completes when its pages, none, have come', () => {
  const p = connected().send().reserve(d1, 1, { prefix: 12, pages: undefined }).finish().clear()
  p.message(d1, { k: 'pages', ep: 1, pages: kv() })
  expect(p.take().sent).toEqual(['complete'])
})

test('bytes in flight to a peer are bounded; what waits goes out when something has settled, not when it is done', () => {
  const p = connected()
    .send(1, { tokens: 24 })
    .reserve(d1, 1, { tokens: 24, pages: kv(0, 1, 2, 3, 4, 5) })
    .clear()
  p.write(0, int32(0, 1, 2)).write(3, int32(3, 4), 2)
  expect(p.take()).toMatchObject({ told: ['posted(1)'], engine: ['post'] })
  p.done(1)
  expect(p.take().engine).toEqual([])
  p.settled(1)
  expect(p.take()).toMatchObject({ told: ['posted(2)'], engine: ['post'] })
})

test('a write larger than the bound goes alone', () => {
  const p = connected()
    .send(1, { tokens: 24 })
    .reserve(d1, 1, { tokens: 24, pages: kv(0, 1, 2, 3, 4, 5) })
    .clear()
    .write(0, int32(0, 1, 2, 3, 4, 5))
  expect(p.take().engine).toEqual(['post'])
})

const digests = { kv: new Uint8Array(32).fill(7), mamba: new Uint8Array(16) }

test('digests go with complete when decode asked for them; a failure to compute them fails the request', () => {
  const start = () =>
    connected()
      .send()
      .reserve(d1, 1, { digests: true, prefix: 4, pages: kv(6, 7) })
      .write()
      .landed()
      .clear()
      .finish()
  const p = start()
  const effect = p.take().effects.find((e) => e.do === 'digest')
  expect(effect).toMatchObject({
    ...{ epoch: 1, peer: d1.incarnation, prompt: { tokens: 12, prefix: 4 } },
    source: { kv: int32(0, 1, 2), mamba: int32() },
  })
  p.step({ type: 'digests', sender: 1, epoch: 1, peer: d1.incarnation, digests })
  const complete = p.take().messages.at(-1)
  const told = complete?.k === 'complete' ? complete.manifest.digests : undefined
  expect([...(told?.kv ?? [])]).toEqual([...digests.kv])
  const q = start()
    .clear()
    .step({
      type: 'digests.failed',
      sender: 1,
      error: new KvxError('ERR_KVX_INTERNAL', 'no view'),
    })
  expect(q.take()).toMatchObject({
    sent: ['failed(INTERNAL)', 'drained'],
    told: ['failed(INTERNAL)', 'settled'],
  })
})

test('digests that come after an abort change nothing', () => {
  const p = connected()
    .send()
    .reserve(d1, 1, { digests: true })
    .write()
    .landed()
    .finish()
    .abort(d1, 1)
    .clear()
  p.step({ type: 'digests', sender: 1, epoch: 1, peer: d1.incarnation, digests })
  expect(p.take()).toMatchObject({ sent: [], told: [] })
})

// Chunks, layers and components

test('a page is sent by the write that brings its last token, and the last page by the end of the prompt', () => {
  const p = connected().send(1, { tokens: 10 }).reserve(d1, 1, { tokens: 10 }).clear()
  const write = (from: number, end: number, pages: Int32Array, number: number) => {
    const before = p.posts.length
    p.writeParts({ tokens: [from, end], pages: { kv: pages }, write: number })
    expect(p.take().told).toEqual([`posted(${String(number)})`])
    return p.posts.slice(before).flatMap(blocksOf)
  }
  expect(write(0, 3, int32(11), 1)).toEqual([])
  expect(write(3, 6, int32(11, 12), 2)).toMatchObject([{ source: [11], destination: [5] }])
  expect(write(6, 7, int32(12), 3)).toEqual([])
  expect(write(7, 10, int32(12, 13), 4)).toMatchObject([{ source: [12, 13], destination: [6, 7] }])
  for (const { piece } of p.posts) p.landed(piece)
  p.finish()
  // Two of the four writes have moved something.
  expect(p.take().messages.at(-1)).toMatchObject({
    k: 'complete',
    manifest: { parts: { kv: { units: 10 * layers } }, chunks: 2 },
  })
})

test('of a page in two chunks, each layer is sent by the write that brings its last token there', () => {
  const p = places.paired()
  const write = (tokens: [number, number], some: [number, number], number: number) => {
    const before = p.posts.length
    p.writeParts({ tokens, pages: { kv: int32(11) }, layers: some, write: number })
    return p.posts.slice(before).flatMap(blocksOf)
  }
  expect(write([0, 2], [1, 2], 1)).toEqual([])
  expect(write([0, 3], [0, 1], 2)).toEqual([])
  expect(write([2, 4], [1, 2], 3)).toEqual([{ source: [11], destination: [5], lanes: 2 }])
  expect(write([3, 4], [0, 1], 4)).toEqual([{ source: [11], destination: [5], lanes: 2 }])
})

test('pages and slots of one write go as one', () => {
  const p = connected()
    .send()
    .reserve(d1, 1, { pages: { ...kv(5, 6, 7), mamba: packed(2) } })
    .clear()
  p.writeParts({ tokens: [0, 12], pages: { kv: int32(1, 2, 3) }, state: { mamba: int32(0) } })
  expect(p.take()).toMatchObject({ engine: ['post'], told: ['posted(1)'] })
  expect(p.posts.map(blocksOf).at(-1)).toEqual([
    { source: [1, 2, 3], destination: [5, 6, 7], lanes: 2 * layers },
    { source: [0], destination: [2], lanes: 1 },
  ])
  p.landed().finish({}, {})
  expect(p.take().messages.at(-1)).toMatchObject({
    k: 'complete',
    manifest: { parts: { kv: { units: unitsOf(3) }, mamba: { units: 1, bytes: 8 } }, chunks: 1 },
  })
})

/** A cache with state of two layers, and with a window of six tokens. */
const hybrid: Cache = (() => {
  const { shape, place } = smallCache()
  const [full, state] = shape.components
  const states = [0, 1].map((layer) => ({ ...state!.tensors[0]!, layer }))
  const swa = { ...full!, name: 'swa', window: 6 }
  const all = [...full!.tensors.map((t) => ({ ...t, component: 'kv' }))]
    .concat(full!.tensors.map((t) => ({ ...t, component: 'swa' })))
    .concat(states.map((t) => ({ ...t, component: 'mamba' })))
  return {
    shape: { ...shape, components: [full!, swa, { ...state!, tensors: states }] },
    place: {
      components: { ...place.components, swa: place.components.kv! },
      tensors: all.map(({ component, layer, part }, i) => ({
        ...{ component, layer, part, region: 0, pageBytes: 8, order: 'NHD' as const },
        base: i * 8 * 16,
      })),
    },
  }
})()
const hybridPair = () =>
  new PrefillSide({ cache: hybrid })
    .hello(d1, onWire(hybrid))
    .linkOpen(d1)
    .send()
    .reserve(d1, 1, { pages: { ...kv(5, 6, 7), swa: packed(1, 2), mamba: packed(2) } })
const wholePrompt = { tokens: [0, 12] as const, pages: { kv: int32(0, 1, 2), swa: int32(8, 9) } }

test('prefill is told the first token of each component that decode needs: those of a window from the page in which it begins', () => {
  const { effects } = hybridPair().take()
  expect(effects.find((effect) => effect.do === 'sender.reserved')).toMatchObject({
    prefixTokens: 0,
    firstTokens: { kv: 0, swa: 4 },
  })
})

test('pages before a window may be left out, and are not sent when they are given', () => {
  for (const swa of [int32(8, 9), int32(15, 8, 9)]) {
    const p = hybridPair().clear()
    p.writeParts({ tokens: [0, 12], pages: { kv: int32(0, 1, 2), swa } })
    expect(p.posts.map(blocksOf).at(-1)?.[1]).toEqual({
      source: [8, 9],
      destination: [1, 2],
      lanes: 2 * layers,
    })
  }
  const p = hybridPair().clear()
  p.writeParts({ tokens: [0, 12], pages: { kv: int32(0, 1, 2), swa: int32(9) } })
  expect(p.take()).toMatchObject({ told: ['rejected(INVALID_ARGUMENT)'], engine: [] })
})

test('tokens before a window need not be written at all', () => {
  const p = hybridPair()
  p.writeParts({ tokens: [0, 4], pages: { kv: int32(0) } }).landed()
  p.writeParts({ tokens: [4, 12], pages: { kv: int32(1, 2), swa: int32(8, 9) }, write: 2 }).landed()
  p.clear()
    .finish({}, { mamba: int32(3) })
    .landed()
  expect(p.take().messages.at(-1)).toMatchObject({
    k: 'complete',
    manifest: {
      parts: { kv: { units: unitsOf(3) }, swa: { units: unitsOf(2) }, mamba: { units: 2 } },
    },
  })
})

test('state may be written before finish, layer by layer, and each layer once', () => {
  const p = hybridPair().clear()
  p.writeParts({ ...wholePrompt, state: { mamba: int32(3) }, layers: [1, 2] })
  p.writeParts({ ...wholePrompt, layers: [0, 1], write: 2 })
  for (const { piece } of p.posts) p.landed(piece)
  // The pages of layer 1 and its state; the pages of layer 0.
  expect(p.take().sent).toEqual(['progress(21)', 'progress(41)'])
  const state = { mamba: int32(3) }
  const again = () => p.take().told
  expect((p.writeParts({ state, layers: [1, 2], write: 3 }), again())).toEqual([
    'rejected(INVALID_ARGUMENT)',
  ])
  expect((p.writeParts({ state, write: 4 }), again())).toEqual(['rejected(INVALID_ARGUMENT)'])
  const other = { mamba: int32(1) }
  expect((p.writeParts({ state: other, layers: [0, 1], write: 5 }), again())).toEqual([
    'rejected(INVALID_ARGUMENT)',
  ])
  p.finish({}, {})
  const rejected = p.take().effects.find((effect) => effect.do === 'sender.rejected')
  expect(rejected?.error.message).toMatch(/the state 'mamba' of layer 0 was never written/)
  p.writeParts({ state, layers: [0, 1], write: 6 }).landed()
  expect(p.finish({}, state).take().told).toContain('rejected(INVALID_ARGUMENT)')
  p.finish({}, {})
  expect(p.take().messages.at(-1)).toMatchObject({
    k: 'complete',
    manifest: { parts: { mamba: { units: 2, bytes: 16 } }, chunks: 3 },
  })
})

test('a state that decode has reserved no slot for is none that could be written', () => {
  const p = places.paired().clear()
  p.writeParts({ state: { mamba: int32(0) } })
  expect(p.take()).toMatchObject({ told: ['rejected(INVALID_ARGUMENT)'], engine: [] })
})

test('a full hit moves state and aux, and no page', () => {
  const p = connected()
    .send(1, { tokens: 10 })
    .reserve(d1, 1, { tokens: 10, prefix: 10, pages: { kv: packed(), mamba: packed(2) } })
  expect(p.take().told).toEqual(['reserved(10)'])
  p.writeParts({ tokens: [0, 10], pages: { kv: int32(0, 1, 2) } })
  expect(p.take()).toMatchObject({ told: ['posted(1)'], engine: [] })
  p.finish({ firstToken: 7 }, { mamba: int32(1) })
  expect(p.posts.map(blocksOf)).toEqual([[{ source: [1], destination: [2], lanes: 1 }]])
  p.clear().landed()
  expect(p.take().messages.at(-1)).toMatchObject({
    k: 'complete',
    manifest: { parts: { mamba: { units: 1 } }, chunks: 0 },
    aux: { firstToken: 7 },
  })
})

// Ends

test('a failed transfer says drained only when its last write has settled, and cancels what is posted', () => {
  const p = places.paired().write(0, int32(0)).write(1, int32(1), 2).clear().failed(1)
  expect(p.take()).toMatchObject({
    sent: ['failed(TRANSFER_FAILED)'],
    told: ['failed(TRANSFER_FAILED)'],
    engine: ['cancel'],
  })
  p.settled(1)
  expect(p.take().sent).toEqual([])
  p.failed(2).settled(2)
  expect(p.take()).toMatchObject({ sent: ['drained'], told: ['settled'] })
})

test('the first cause is kept: what fails later changes neither outcome nor host', () => {
  const p = places['failed, may still land']().clear().hostAbort().abort(d1, 1)
  expect(p.take()).toMatchObject({ sent: [], told: [] })
  p.message(d1, { k: 'query', ep: 1 })
  expect(p.take().messages[0]).toMatchObject({
    k: 'status',
    state: 'failed',
    outcome: { code: 'ERR_KVX_TRANSFER_FAILED', text: 'the wire broke' },
  })
})

test('an outcome is repeated whole until it was acknowledged', () => {
  const p = places.complete().clear()
  for (let i = 0; i < 3; i++) p.message(d1, { k: 'query', ep: 1 })
  for (const message of p.take().messages) {
    expect(message).toMatchObject({
      k: 'status',
      state: 'complete',
      units: unitsOf(3),
      outcome: {
        k: 'complete',
        aux: { firstToken: 42 },
        manifest: { parts: { kv: { units: unitsOf(3) } } },
      },
    })
  }
  p.message(d1, { k: 'ack', ep: 1 }).clear().message(d1, { k: 'query', ep: 1 })
  expect(p.take().sent).toEqual(['status(over)'])
})

test('a failed transfer is remembered beyond its linger while a write may land, and forgotten when that settles', () => {
  const p = places['failed, may still land']()
    .pass(10 * deadlines.linger, d1)
    .clear()
  expect(p.where(d1, 1)).toBe('failed, unsettled')
  p.settled()
  expect(p.take()).toMatchObject({ sent: ['drained'], told: ['settled'] })
  expect(p.where(d1, 1)).toBe('over')
})

test('a leg that decode never came for ends at the pairing deadline', () => {
  const p = connected()
    .send()
    .pass(deadlines.pairing - 1, d1)
    .clear()
  expect(p.sender()).toBe('waiting')
  expect(p.pass(1, d1).take().told).toEqual(['failed(TIMEOUT)', 'settled'])
})

test('a late reserve learns the first cause of the leg that ended, for the linger', () => {
  const p = connected().send().hostAbort().clear().reserve(d1, 1)
  expect(p.take().messages[0]).toMatchObject({
    k: 'refuse',
    ep: 1,
    code: 'ERR_KVX_ABORTED',
    text: 'prefill does not want it',
  })
  p.pass(deadlines.linger, d1).clear().reserve(d1, 2)
  expect(p.take().sent).toEqual(['accept(parked)'])
})

test('a new leg clears the memory of the one that ended', () => {
  const p = connected().send().hostAbort().send(2).clear().reserve(d1, 1)
  expect(p.take().sent).toEqual(['accept(paired)'])
})

test('a reserve of a room that was sent before is parked, told so, and fails with a code that says it', () => {
  const p = places.over().clear().reserve(d1, 2).message(d1, { k: 'query', ep: 2 })
  expect(p.take().messages).toMatchObject([
    { k: 'accept', state: 'parked', consumed: true },
    { k: 'status', state: 'parked', consumed: true },
  ])
  p.pass(deadlines.pairing, d1)
  expect(p.take().sent).toEqual(['failed(ROOM_CONSUMED)', 'drained'])
})

test('a reserve of a room that was sent before is paired when its new leg comes', () => {
  const p = places.over().clear().reserve(d1, 2).send(2)
  expect(p.take()).toMatchObject({
    sent: ['accept(parked)', 'accept(paired)'],
    told: ['reserved(0)'],
  })
})

test('that a room was sent is remembered for the linger', () => {
  const p = places.over().pass(deadlines.linger, d1).clear().reserve(d1, 2)
  expect(p.take().messages[0]).not.toHaveProperty('consumed')
  p.pass(deadlines.pairing, d1)
  expect(p.take().sent).toEqual(['failed(ROOM_UNKNOWN)', 'drained'])
})

test('of too many legs that ended the oldest are forgotten', () => {
  const p = connected()
  for (let i = 0; i <= limits.requests; i++) p.send(i + 1, { room: BigInt(i) }).hostAbort(i + 1)
  p.clear()
    .reserve(d1, 1, { room: 0n })
    .reserve(d1, 2, { room: BigInt(limits.requests) })
  expect(p.take().sent).toEqual(['accept(parked)', 'refuse(ABORTED)'])
})

test('the memory of ended legs is bounded', () => {
  const p = connected()
  for (let i = 0; i < 3 * limits.requests; i++) p.send(i + 1, { room: BigInt(i) }).hostAbort(i + 1)
  expect(p.state.ended.size).toBe(limits.requests)
})

// Admission

test('a room that is live takes no second leg; another index of it does', () => {
  const p = places.paired()
  expect(sendObjection(p.state, '9/0')?.code).toBe('ERR_KVX_ROOM_IN_USE')
  expect(sendObjection(p.state, '9/1')).toBeUndefined()
})

test('the number of live legs is bounded', () => {
  const p = connected()
  for (let i = 0; i < limits.requests; i++) p.send(i + 1, { room: BigInt(i) })
  expect(sendObjection(p.state, '99/0')?.code).toBe('ERR_KVX_OVER_LIMIT')
})

test('parked reserves are bounded per peer, and a reserve whose leg is here is not one of them', () => {
  const p = connected()
  for (let ep = 1; ep <= limits.parkedPerPeer; ep++) p.reserve(d1, ep, { room: BigInt(ep) })
  expect(p.clear().reserve(d1, 5, { room: 50n }).take().sent).toEqual(['refuse(OVER_LIMIT)'])
  expect(p.send(1, { room: 60n }).clear().reserve(d1, 6, { room: 60n }).take().sent).toEqual([
    'accept(paired)',
  ])
  expect(p.connect(d2).clear().reserve(d2, 1, { room: 70n }).take().sent).toEqual([
    'accept(parked)',
  ])
})

test('a reserve of another prompt is refused and ends the leg that waits, with that cause', () => {
  const p = connected()
    .send()
    .clear()
    .reserve(d1, 1, { digest: digest(2) })
  expect(p.take()).toMatchObject({
    sent: ['refuse(PROMPT_MISMATCH)'],
    told: ['failed(PROMPT_MISMATCH)', 'settled'],
  })
})

test('a room of another decode rank that is already paired is in use', () => {
  const p = places.paired().connect(d2).clear().reserve(d2, 1)
  expect(p.take().sent).toEqual(['refuse(ROOM_IN_USE)'])
  expect(p.where(d1, 1)).toBe('paired')
})

const hostile: [string, Record<string, unknown>, string][] = [
  ['a negative page', { pages: kv(5, -1, 7) }, 'PAGES_INVALID'],
  ["a page beyond decode's pool", { pages: kv(5, 16, 7) }, 'PAGES_INVALID'],
  ['a page twice', { pages: kv(5, 6, 5) }, 'PAGES_INVALID'],
  ['too few pages', { pages: kv(5, 6) }, 'PAGES_INVALID'],
  ['too many pages', { pages: kv(5, 6, 7, 8) }, 'PAGES_INVALID'],
  ['a slot out of range', { pages: { ...kv(5, 6, 7), mamba: packed(4) } }, 'PAGES_INVALID'],
  ['a slot twice', { pages: { ...kv(5, 6, 7), mamba: packed(1, 1) } }, 'PAGES_INVALID'],
  ['no pages of a component', { pages: { mamba: packed() } }, 'PAGES_INVALID'],
  ['no slots of a component', { pages: { kv: packed(5, 6, 7) } }, 'PAGES_INVALID'],
  [
    'pages of a component that there is not',
    { pages: { ...kv(5, 6, 7), toString: packed(0) } },
    'PAGES_INVALID',
  ],
  ['a prefix that is no whole page', { prefix: 3, pages: kv(5, 6, 7) }, 'PROTOCOL'],
  ['a prefix longer than the prompt', { prefix: 16, pages: kv() }, 'PROTOCOL'],
  [
    'more tokens than prefill has pages for',
    { tokens: 10 ** 12, pages: undefined },
    'INVALID_ARGUMENT',
  ],
]
test.each(hostile)('a reserve with %s is refused and holds nothing', (_what, change, code) => {
  const p = connected().reserve(d1, 1, change)
  expect(p.take().sent).toEqual([`refuse(${code})`])
  expect(p.where(d1, 1)).toBe('over')
  expect(p.left()).toBe('')
})

test.each([
  ['a negative page', { pages: kv(5, -1, 7) }],
  ['a page out of range', { pages: kv(5, 99, 7) }],
  ['a page twice', { pages: kv(5, 5, 7) }],
  ['too few', { pages: kv(5) }],
  ['a slot out of range', { pages: { ...kv(5, 6, 7), mamba: packed(-1) } }],
  ['a component missing', { pages: { kv: packed(5, 6, 7) } }],
])('pages that come late with %s fail the request and nothing is written', (_what, body) => {
  const p = places['waiting for pages']()
    .clear()
    .message(d1, { k: 'pages', ep: 1, ...body })
  expect(p.take()).toMatchObject({
    sent: ['failed(PAGES_INVALID)', 'drained'],
    told: ['failed(PAGES_INVALID)', 'settled'],
    engine: [],
  })
})

test('the watermark is the highest epoch of any message: what is below it and not live is over', () => {
  const p = connected().message(d1, { k: 'query', ep: 5 }).clear()
  expect(p.reserve(d1, 4).take().sent).toEqual(['refuse(STALE)'])
  expect(p.reserve(d1, 5).take().sent).toEqual(['refuse(STALE)'])
  expect(p.reserve(d1, 6).take().sent).toEqual(['accept(parked)'])
})

test('an abort that overtakes its reserve wins: the reserve that follows is stale', () => {
  const p = connected().abort(d1, 1)
  expect(p.take().sent).toEqual(['drained'])
  expect(p.reserve(d1, 1).take().sent).toEqual(['refuse(STALE)'])
})

// Identity

test('nothing is answered before hello but the wish to hear one', () => {
  const p = new PrefillSide().reserve(d1, 1)
  expect(p.take().sent).toEqual(['refuse(INVALID_STATE)'])
  expect(p.state.peers.size).toBe(0)
})

test('welcome is said when the engine is connected, and a refusal when it cannot', () => {
  const p = new PrefillSide().hello(d1)
  expect(p.take()).toMatchObject({ sent: [], engine: ['openLink'] })
  expect(p.reserve(d1, 1).take().sent).toEqual(['accept(parked)'])
  expect(p.linkOpen(d1).take().sent).toEqual(['welcome'])
  const q = new PrefillSide().hello(d1).clear()
  q.step({
    type: 'link.failed',
    peer: d1.incarnation,
    generation: d1.gen,
    error: new KvxError('ERR_KVX_CONNECT_FAILED', 'no route'),
  })
  expect(q.take().sent).toEqual(['refuse(CONNECT_FAILED)'])
  expect(q.state.peers.size).toBe(0)
})

const refusedHellos: [string, Parameters<PrefillSide['hello']>[1], string][] = [
  [
    'of another backend',
    {
      engine: {
        backend: 'other',
        version: '1',
        address: new Uint8Array(),
        regions: [new Uint8Array(1)],
      },
    },
    'BACKEND_MISMATCH',
  ],
  [
    'of pages that meet those here only after millions of tokens',
    onWire({
      ...smallCache(),
      place: {
        components: { kv: { pageTokens: 999_983, pages: 1 }, mamba: { pages: statePages } },
        tensors: smallCache().place.tensors.map((tensor, i) => ({
          ...tensor,
          base: i * 2_000_000,
          pageBytes: 2_000_000,
        })),
      },
    }),
    'PAGE_SIZE_MISMATCH',
  ],
  ['of another model', onWire(smallCache({ model: 'large' })), 'LAYOUT_MISMATCH'],
  [
    'of another dtype',
    onWire(
      smallCache({
        components: smallCache().shape.components.map((component) => ({
          ...component,
          tensors: component.tensors.map((tensor) => ({ ...tensor, dtype: 'f32' })),
        })),
      }),
    ),
    'LAYOUT_MISMATCH',
  ],
  ['meant for another process', { to: name128('other') }, 'STALE'],
]
test.each(refusedHellos)('a hello %s is refused and not remembered', (_what, change, code) => {
  const p = new PrefillSide().hello(d1, change)
  expect(p.take()).toMatchObject({ sent: [`refuse(${code})`], engine: [] })
  expect(p.state.peers.size).toBe(0)
  expect(p.state.connections.size).toBe(0)
})

test.each<[string, object, RegExp]>([
  [
    'another model',
    onWire(smallCache({ model: 'large' })),
    /^The caches differ in the model: prefill has small, decode has large\. Load the same model/,
  ],
  [
    'another number of layers',
    { ...onWire(smallCache({ layers: 3 })), rank: { ...rank, stages: [0, 3] } },
    /^The caches differ in the number of layers: prefill has 2, decode has 3\. Both sides need the same layers/,
  ],
  [
    'fewer components',
    onWire({
      shape: { ...smallCache().shape, components: smallCache().shape.components.slice(0, 1) },
      place: {
        components: { kv: smallCache().place.components.kv! },
        tensors: smallCache().place.tensors.slice(0, 4),
      },
    }),
    /^The caches differ in their components: prefill has kv, mamba, decode has kv\. State the same shape on both sides/,
  ],
  [
    'stages that end elsewhere',
    { rank: { ...rank, stages: [0, 1] } },
    /place has .* which rank tp0\/pp0\/cp0\/dp0 does not hold\.$/,
  ],
  [
    'tokens in stretches of a size that nothing divides',
    { rank: { ...rank, cpSize: 2, context: { interleave: 65_537 } } },
    /prefill has pages of 4 tokens, decode has pages of 4 tokens that hold one of every 2 stretches of 65537\. These/,
  ],
])('a hello with %s is told the field, and the values of both sides', (_what, change, text) => {
  const [refused] = new PrefillSide().hello(d1, change).take().messages
  expect(refused).toMatchObject({
    k: 'refuse',
    text: expect.stringMatching(text) as string,
    phase: 'hello',
    peer: 'prefill-a',
    rank: 'tp0/pp0/cp0/dp0',
  })
})

test('a known decode that comes back with another size of its instance is refused', () => {
  const p = new PrefillSide().connect(d1).clear()
  p.hello(d1, { rank: { ...rank, dpSize: 2 } })
  expect(p.take().sent).toEqual(['refuse(LAYOUT_MISMATCH)'])
})

test('a known incarnation with another session is refused, and the true one goes on', () => {
  const p = places.paired().clear()
  p.hello(decoder(1, { session: name128('X'), connection: 'c9' }))
  expect(p.take().sent).toEqual(['refuse(SESSION_MISMATCH)'])
  p.message(decoder(1, { connection: 'c9' }), {
    k: 'abort',
    ep: 1,
    code: 'ERR_KVX_ABORTED',
    text: 'hostile',
  })
  expect(p.take()).toMatchObject({ sent: ['refuse(INVALID_STATE)'], told: [] })
  expect(p.where(d1, 1)).toBe('paired')
  expect(p.message(d1, { k: 'query', ep: 1 }).take().sent).toEqual(['status(paired)'])
})

test('a connection speaks only for the incarnation it said hello for', () => {
  const p = places.paired().connect(d2).clear()
  const impostor = decoder(1, { connection: d2.connection })
  p.abort(impostor, 1).reserve(impostor, 2).message(impostor, { k: 'ping', live: 0 })
  expect(p.take()).toMatchObject({
    sent: Array(3).fill('refuse(SENDER_MISMATCH)') as string[],
    told: [],
  })
  expect(p.hello(impostor).take().sent).toEqual(['refuse(SENDER_MISMATCH)'])
  expect(p.where(d1, 1)).toBe('paired')
})

test('what a decode says of an epoch concerns its own epochs only', () => {
  const p = places.paired().connect(d2).clear().abort(d2, 1)
  expect(p.take()).toMatchObject({ sent: ['drained'], told: [] })
  expect(p.where(d1, 1)).toBe('paired')
})

test.each([
  ['for another incarnation of prefill', { to: name128('older') }, []],
  ['of another generation', { gen: name128('older') }, ['refuse(EPOCH_MISMATCH)']],
])('a message %s changes nothing', (_what, change, sent) => {
  for (const body of [
    { k: 'abort', ep: 1, code: 'ERR_KVX_ABORTED', text: '' },
    { k: 'query', ep: 9 },
    { k: 'ack', ep: 9 },
    { k: 'pages', ep: 1, pages: kv(1, 2, 3) },
  ]) {
    const p = places['waiting for pages']().clear()
    p.message(d1, { ...body, ...change })
    expect(p.take()).toMatchObject({ sent, told: [], engine: [] })
    expect(p.where(d1, 1)).toBe('paired, unsettled')
    expect(p.where(d1, 9)).toBe('unknown')
  }
})

test.each(['welcome', 'accept', 'ready', 'progress', 'complete', 'failed', 'drained', 'status'])(
  'a %s, which only prefill says, is counted and changes nothing',
  async (kind) => {
    const { samples } = await import('./protocol/fixtures.ts')
    const p = places.paired().clear()
    p.message(d1, {
      ...samples[kind as 'ready'],
      from: d1.incarnation,
      to: p.state.self.incarnation,
      gen: d1.gen,
      ep: 1,
      outcome: undefined,
    })
    expect(p.take().effects).toEqual([])
    expect(p.where(d1, 1)).toBe('paired')
    expect([...p.state.dropped.values()]).toEqual([1])
  },
)

test('after a new generation, epochs count on, and what was live before is over', () => {
  const p = places.writing().clear()
  const renewed = decoder(1, { gen: name128('H', 1) })
  p.hello(renewed, { epoch: 1 })
  expect(p.take()).toMatchObject({
    sent: [],
    told: ['failed(TRANSFER_FAILED)'],
    engine: ['cancel', 'closeLink', 'openLink'],
  })
  p.linkOpen(renewed)
  expect(p.take().sent).toEqual(['welcome'])
  expect(p.reserve(d1, 2).take().sent).toEqual(['refuse(EPOCH_MISMATCH)'])
  expect(p.reserve(renewed, 2, { room: 10n }).take().sent).toEqual(['accept(parked)'])
  p.settled()
  expect(p.take()).toMatchObject({ sent: [], told: ['settled'] })
})

test('what is parked while the link is not open is paired when it opens', () => {
  const p = new PrefillSide().hello(d1).reserve(d1, 1).send().clear()
  expect(p.where(d1, 1)).toBe('parked')
  expect(p.linkOpen(d1).take()).toMatchObject({
    sent: ['welcome', 'accept(paired)'],
    told: ['reserved(0)'],
  })
})

test('a replaced engine that cannot be connected again fails at once what waits for an answer', () => {
  const p = new PrefillSide({ fence: 'engine' }).connect(d1).send().reserve(d1, 1)
  p.write().landed().finish()
  p.send(2, { room: 10n }).reserve(d1, 2, { room: 10n }).write(0, int32(3), 1, undefined, 2)
  p.failed().pass(deadlines.drain, d1).settled()
  expect(p.take().effects.some((effect) => effect.do === 'recycle')).toBe(true)
  p.step({ type: 'engine.recycled', generation: name128('W', 2) }).clear()
  const error = new KvxError('ERR_KVX_CONNECT_FAILED', 'no route')
  p.step({ type: 'link.failed', peer: d1.incarnation, generation: d1.gen, error })
  expect(p.take()).toMatchObject({
    sent: ['refuse(CONNECT_FAILED)'],
    told: ['failed(CONNECT_FAILED)', 'settled'],
  })
  expect(p.left()).toBe('ended: 2')
})

test('a link that opens for a generation that is gone is closed, and only then the next one is opened', () => {
  const p = new PrefillSide()
  const renewed = decoder(1, { gen: name128('H') })
  expect(p.hello(d1).hello(renewed).take().engine).toEqual(['openLink', 'closeLink'])
  p.linkOpen(d1)
  expect(p.take()).toMatchObject({ sent: [], engine: ['closeLink', 'openLink'] })
  expect(p.linkOpen(renewed).take().sent).toEqual(['welcome'])
})

test.each([
  ['succeeds after all', (p: PrefillSide) => p.linkOpen(d1), ['closeLink', 'openLink']],
  [
    'fails, as it was given up',
    (p: PrefillSide) =>
      p.step({
        ...{ type: 'link.failed', peer: d1.incarnation, generation: d1.gen },
        error: new KvxError('ERR_KVX_CONNECT_FAILED', 'given up'),
      }),
    ['openLink'],
  ],
] as const)(
  'a link that was given up while it opened is opened anew for a decode that comes back, when its attempt %s',
  (_, end, engine) => {
    const p = new PrefillSide().hello(d1).pass(deadlines.peerSilent + deadlines.ping)
    expect(p.take().engine).toEqual(['openLink', 'closeLink'])
    expect(p.hello(d1).take().engine).toEqual([])
    expect(end(p).take()).toMatchObject({ sent: [], engine })
    expect(p.linkOpen(d1).take().sent).toEqual(['welcome'])
  },
)

test('however often a decode renews its engine, one link to it is opened at a time', () => {
  const p = new PrefillSide()
  for (let i = 0; i < 50; i++) p.hello(decoder(1, { gen: name128('H', i) }))
  expect(p.take().engine.filter((what) => what === 'openLink')).toHaveLength(1)
})

test('a known decode that comes back with another cache is refused', () => {
  const p = new PrefillSide().connect(d1).clear()
  p.hello(d1, onWire(smallCache({}, 8)))
  expect(p.take().sent).toEqual(['refuse(LAYOUT_MISMATCH)'])
})

test.each([
  ['a region that it has not', { region: 1 }],
  ['bytes beyond any memory', { base: Number.MAX_SAFE_INTEGER }],
  ['pages that are smaller than their heads', { pageBytes: 1 }],
])('a hello whose place names %s is refused and not remembered', (_what, change) => {
  const { shape, place } = smallCache()
  const tensors = place.tensors.map((tensor, i) => (i === 0 ? { ...tensor, ...change } : tensor))
  const p = new PrefillSide().hello(d1, onWire({ shape, place: { ...place, tensors } }))
  expect(p.take().sent).toEqual(['refuse(LAYOUT_INVALID)'])
  expect(p.state.peers.size).toBe(0)
})

test('failures that a decode does not acknowledge are bounded like what is parked', () => {
  const p = new PrefillSide().connect(d1)
  for (let ep = 1; ep <= 100; ep++) {
    p.reserve(d1, ep, { room: BigInt(ep), pages: undefined })
    p.message(d1, { k: 'pages', ep, pages: kv(99, 98, 97) })
  }
  expect(p.state.peers.get(d1.incarnation)?.transfers.size).toBe(limits.parkedPerPeer)
})

// Ranks

test('a room pairs when all decode ranks that this rank serves have reserved, and one failure reaches all', () => {
  const stage = (pp: number) => ({ ...rank, pp, ppSize: 2, stages: [0, 1, layers] })
  const half = (pp: number) => {
    const { shape, place } = smallCache()
    const { kv: pages, mamba } = place.components
    const components = pp === 0 ? { kv: pages!, mamba: mamba! } : { kv: pages! }
    const tensors = place.tensors.filter(({ layer }) => layer === pp)
    return onWire({ shape, place: { components, tensors } })
  }
  const name = { instance: d1.instance }
  const both = () => {
    const p = new PrefillSide()
    p.hello(d1, { rank: stage(0), ...half(0) }).linkOpen(d1)
    p.hello(d2, { ...name, rank: stage(1), ...half(1) }).linkOpen(d2)
    return p.send().clear()
  }
  const p = both().reserve(d1, 1)
  expect(p.take()).toMatchObject({ sent: ['accept(parked)'], told: [] })
  p.reserve(d2, 1, { pages: { kv: packed(5, 6, 7) } })
  expect(p.take()).toMatchObject({
    sent: ['accept(paired)', 'accept(paired)'],
    told: ['reserved(0)'],
  })
  p.write()
  expect(p.take().engine).toEqual(['post', 'post'])
  p.abort(d2, 1)
  expect(p.take()).toMatchObject({ told: ['failed(ABORTED)'], sent: ['failed(ABORTED)'] })

  const early = both().reserve(d1, 1).clear().abort(d1, 1)
  expect(early.take()).toMatchObject({ told: ['failed(ABORTED)', 'settled'], sent: ['drained'] })
})

test('a lost peer whose write may still land is kept, with its watermark, until that settles', () => {
  const p = places
    .writing()
    .tick(deadlines.peerSilent + 1)
    .clear()
  expect(p.state.peers.size).toBe(1)
  p.connect(d1).clear()
  expect(p.reserve(d1, 1).take().sent).toEqual(['status(failed)'])
  p.abort(d1, 1)
  expect(p.take().sent).toEqual([])
  p.settled()
  expect(p.take().sent).toEqual(['drained'])
})

test('a forgotten peer that comes back is told that its old epochs are over', () => {
  const p = places
    .paired()
    .tick(deadlines.peerSilent + 1)
    .hello(d1, { epoch: 1 })
    .linkOpen(d1)
    .clear()
  expect(p.message(d1, { k: 'query', ep: 1 }).take().sent).toEqual(['status(over)'])
  expect(p.reserve(d1, 1).take().sent).toEqual(['refuse(STALE)'])
})

test('the epoch that hello names moves the watermark of a known peer too', () => {
  const p = connected().hello(d1, { epoch: 7 }).clear()
  expect(p.reserve(d1, 7).take().sent).toEqual(['refuse(STALE)'])
})

test('after a reconnect the old connection is deaf and the new one is answered', () => {
  const p = places.parked()
  const moved = decoder(1, { connection: 'c1b' })
  p.hello(moved).clear().abort(d1, 1)
  expect(p.take().sent).toEqual(['refuse(INVALID_STATE)'])
  p.send()
  expect(p.take().effects.find((e) => e.do === 'send')).toMatchObject({ connection: 'c1b' })
})

test('a peer that only pings is not lost, and one that does not is', () => {
  const p = places.paired().pass(10 * deadlines.peerSilent, d1)
  expect(p.where(d1, 1)).toBe('paired')
  expect(p.pass(deadlines.peerSilent + deadlines.ping).take().told).toContain('failed(PEER_LOST)')
  expect(p.state.peers.size).toBe(0)
  expect(p.state.connections.size).toBe(0)
})

test('an error names the peer, its rank and the phase', () => {
  const p = places
    .paired()
    .clear()
    .tick(deadlines.peerSilent + 1)
  const failed = p.take().effects.find((e) => e.do === 'sender.failed')
  expect(failed?.error).toMatchObject({
    code: 'ERR_KVX_PEER_LOST',
    peer: 'decode-1',
    rank: 'tp0/pp0/cp0/dp0',
    phase: 'transfer',
  })
  expect(rank.tp).toBe(0)
})

test('an engine whose access decode has revoked is connected again, and what ran over it fails', () => {
  const p = places.writing().clear().hello(d1, { fences: 1 })
  expect(p.take()).toMatchObject({
    told: ['failed(TRANSFER_FAILED)'],
    engine: ['cancel', 'closeLink', 'openLink'],
  })
  expect(p.linkOpen(d1).hello(d1, { fences: 1 }).take()).toMatchObject({
    sent: ['welcome', 'welcome'],
    engine: [],
  })
})

test('of a write whose engine was closed without settling it, the source is free, and drained is not said before the target has a new engine', () => {
  const p = new PrefillSide({ fence: 'engine' }).connect(d1).send().reserve(d1, 1).write().failed()
  p.pass(deadlines.drain, d1).clear()
  p.step({ type: 'engine.recycled', generation: name128('W', 2) })
  expect(p.take()).toMatchObject({ told: ['settled'], sent: [] })
  p.linkOpen(d1).clear().abort(d1, 1)
  expect(p.take().sent).toEqual([])
  p.hello(decoder(1, { gen: name128('H', 1) }))
  expect(p.state.pieces.size).toBe(0)
})

test('a write whose target has a new engine already has settled when its own engine is closed', () => {
  const p = new PrefillSide({ fence: 'engine' }).connect(d1).send().reserve(d1, 1).write().failed()
  p.pass(deadlines.drain, d1).hello(decoder(1, { gen: name128('H', 1) }))
  p.clear().step({ type: 'engine.recycled', generation: name128('W', 2) })
  expect(p.take().told).toEqual(['settled'])
  expect(p.state.pieces.size).toBe(0)
})

test('a stuck write that holds the credit others wait for makes the engine be replaced', () => {
  const p = new PrefillSide({ fence: 'engine', limits: { bytesInFlightPerPeer: 3 * kvBytes } })
  p.connect(d1).send().reserve(d1, 1).write().failed()
  p.send(2, { room: 10n })
    .reserve(d1, 2, { room: 10n })
    .write(0, int32(3, 4, 5), 2, undefined, 2)
    .clear()
  p.pass(deadlines.drain + deadlines.recycle, d1)
  expect(p.take().effects).toContainEqual({ do: 'recycle' })
})

test('a write over a link that its target has closed holds no credit of the next link', () => {
  const p = new PrefillSide({ fence: 'engine', limits: { bytesInFlightPerPeer: 3 * kvBytes } })
  p.connect(d1).send().reserve(d1, 1).write().failed()
  const renewed = decoder(1, { gen: name128('H', 1) })
  p.hello(renewed).linkOpen(renewed)
  p.send(2, { room: 10n })
    .reserve(renewed, 2, { room: 10n })
    .clear()
    .write(0, int32(3, 4, 5), 2, undefined, 2)
  expect(p.take().engine).toEqual(['post'])
})

describe('a request that is published', () => {
  const first = makeRank(layers, { dp: 1, dpSize: 2 })
  const publications = (p: PrefillSide) =>
    p
      .take()
      .effects.flatMap((effect) =>
        effect.do === 'publish' || effect.do === 'withdraw'
          ? [`${effect.do} ${String(effect.room)}/${String(effect.index)}`]
          : [],
      )

  test('is withdrawn when it is forgotten, so that decode can learn how it ended until then', () => {
    const p = new PrefillSide({ rank: first }).send(1, { isPublished: true, index: 2 })
    expect(publications(p)).toEqual(['publish 9/2'])
    p.step({ type: 'host.abort', sender: 1, reason: 'not wanted' })
    p.tick(deadlines.linger - 1)
    expect(publications(p)).toEqual([])
    expect(publications(p.tick(1))).toEqual(['withdraw 9/2'])
    expect(publications(p.tick(deadlines.linger))).toEqual([])
  })

  test('and whose room is used again at once is not withdrawn after the first linger', () => {
    const p = new PrefillSide({ rank: first }).send(1, { isPublished: true })
    p.step({ type: 'host.abort', sender: 1, reason: 'not wanted' })
    p.tick(deadlines.linger - 1).clear()
    expect(publications(p.send(2, { isPublished: true }))).toEqual(['withdraw 9/0', 'publish 9/0'])
    expect(publications(p.tick(1))).toEqual([])
  })

  test.each([
    ['where there are no others', makeRank(layers)],
    ['by another rank of its group', makeRank(layers, { tp: 1, tpSize: 2, dpSize: 2 })],
  ])('is not %s', (_, rank) => {
    expect(publications(new PrefillSide({ rank }).send(1, { isPublished: true }))).toEqual([])
  })
})
