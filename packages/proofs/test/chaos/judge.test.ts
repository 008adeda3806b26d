/** Would chaos notice if something went wrong? */
import { Random } from '@kvx/simulator'
import { expect, test } from 'vitest'
import type { Outcome } from '../../src/chaos/client.ts'
import { judge, type Window } from '../../src/chaos/judge.ts'
import type { Asked } from '../../src/chaos/load.ts'
import { phases, recordedPhase, type LoggedEvent } from '../../src/chaos/phases.ts'
import { drawPlan, everyFault, startsDecodeAgain, type Fault } from '../../src/chaos/plan.ts'

const expected = [11, 12, 13]
const peerLost = {
  code: 'ERR_KVX_PEER_LOST',
  message: 'prefill was lost.',
  phase: 'transfer',
  peer: 'prefill-1',
}

function asked(outcome: Outcome, more: Partial<Asked> = {}): Asked {
  return {
    number: 1,
    question: { prompt: [1, 2], maxTokens: 3, answer: expected },
    expected,
    startedAt: 1_000,
    endedAt: 2_000,
    direct: false,
    abort: new AbortController(),
    outcome,
    ...more,
  }
}

function window(more: Partial<Window> = {}, fault: Partial<Fault> = {}): Window {
  return {
    fault: { kind: 'kill', victim: 'prefill', aim: 'reserved', ...fault },
    from: 1_500,
    until: 3_000,
    mayAffect: 'all',
    spared: new Set(),
    ...more,
  }
}

const ok = (tokens: number[]): Outcome => ({ kind: 'ok', tokens })
const error = (change: object = {}, tokens: number[] = []): Outcome => ({
  kind: 'error',
  status: 503,
  error: { ...peerLost, ...change },
  tokens,
})

test('a whole answer is right, with a fault or without', () => {
  expect(judge(asked(ok(expected)), [])).toEqual({ kind: 'ok' })
  expect(judge(asked(ok(expected)), [window()])).toEqual({ kind: 'ok' })
})

test('an error in the time of a fault is told with the milliseconds that it took', () => {
  expect(judge(asked(error()), [window()])).toEqual({
    kind: 'affected',
    code: 'ERR_KVX_PEER_LOST',
    ms: 500,
  })
})

test.each<[string, Asked, Window[]]>([
  ['another token', asked(ok([11, 12, 14])), [window()]],
  ['a token too few', asked(ok([11, 12])), [window()]],
  ['a token too many', asked(ok([...expected, 14])), [window()]],
  ['another token before an error', asked(error({}, [11, 99])), [window()]],
  ['an error without a fault', asked(error()), []],
  ['an error after the fault', asked(error(), { startedAt: 3_001, endedAt: 4_000 }), [window()]],
  ['an error before the fault', asked(error()), [window({ from: 2_500 })]],
  ['an error long after the fault', asked(error(), { endedAt: 60_000 }), [window()]],
  ['an error without a phase', asked(error({ phase: null })), [window()]],
  ['an error without a peer', asked(error({ peer: undefined })), [window()]],
  ['an error that no fault explains', asked(error({ code: 'ERR_KVX_INTERNAL' })), [window()]],
  [
    'an error of a client that did not leave',
    asked(error({ code: 'ERR_KVX_ABORTED' })),
    [window()],
  ],
  ['an error after a freeze that was short', asked(error()), [window({ mayAffect: new Set() })]],
  ['no end', asked({ kind: 'hung', tokens: [] }), [window()]],
  [
    'no error before the connection ends',
    asked({ kind: 'broken', reason: 'x', tokens: [] }),
    [window()],
  ],
  ['a router that refuses while it runs', asked({ kind: 'refused' }), [window()]],
  ['a request aborted by nobody', asked({ kind: 'aborted' }), [window()]],
  [
    'a worker that turns away though it need not end',
    asked(error({ code: 'ERR_KVX_DRAINING' })),
    [window()],
  ],
])('%s is wrong', (_what, request, windows) => {
  expect(judge(request, windows)).toMatchObject({ kind: 'wrong' })
})

test('a request that a draining worker had begun has to succeed', () => {
  const request = asked(error())
  const draining = window({ spared: new Set([request]) }, { kind: 'term' })
  expect(judge(request, [draining])).toMatchObject({ kind: 'wrong' })
  expect(judge(asked(error()), [draining])).toMatchObject({ kind: 'affected' })
})

test.each(['router', 'decode'] as const)(
  'a %s that is about to end may turn away what comes too late, not what it had begun',
  (victim) => {
    const request = asked(error({ code: 'ERR_KVX_DRAINING' }))
    const ending = (spared: Asked[]) =>
      window({ spared: new Set(spared) }, { kind: 'term', victim })
    expect(judge(request, [ending([])])).toEqual({ kind: 'refused' })
    expect(judge(request, [ending([request])])).toMatchObject({ kind: 'wrong' })
  },
)

test('a slow machine may be given longer for its errors', () => {
  const request = asked(error(), { endedAt: 60_000 })
  expect(judge(request, [window()], 58_499)).toMatchObject({ kind: 'wrong' })
  expect(judge(request, [window()], 58_500)).toMatchObject({ kind: 'affected', ms: 58_500 })
})

test('a connection may end without an error in the middle of an answer, or with the router', () => {
  const begun = asked({ kind: 'broken', reason: 'ECONNRESET', tokens: [11] })
  expect(judge(begun, [window()])).toMatchObject({ kind: 'affected' })
  const unbegun = asked({ kind: 'broken', reason: 'ECONNRESET', tokens: [] })
  expect(judge(unbegun, [window({}, { victim: 'router' })])).toMatchObject({ kind: 'affected' })
})

const event = (name: string, more: object = {}): LoggedEvent => ({
  name,
  request: 'cmpl-1',
  room: '7',
  time: 0,
  ...more,
})

test('phases are told from what the workers logged', () => {
  const received = event('request.received', { tokens: 32 })
  const reserved = event('room.reserved')
  const leased = event('pages.leased', { pages: { kv: 2 } })
  const sent = (...tokens: number[]) => event('chunk.sent', { tokens })
  const phase = (prefill: LoggedEvent[], decode: LoggedEvent[], greeted = true) =>
    recordedPhase({ prefill, decode, greeted })
  const paired = [received, reserved]
  expect(phase([received], [received], false)).toBe('before hello')
  expect(phase([], [received, reserved])).toBe('parked')
  expect(phase([received], [])).toBe('parked')
  expect(phase(paired, paired)).toBe('reserved')
  expect(phase([...paired, leased, sent(0, 16)], paired)).toBe('between chunks')
  const written = [...paired, leased, sent(0, 16), sent(16, 32)]
  expect(phase(written, paired)).toBe('after the last write')
  expect(phase(written, [...paired, event('transfer.complete')])).toBe('after complete')
  // Neither arrived at the other nor missing: it is not counted.
  expect(phase([received], [received])).toBeUndefined()
  expect(phase(written, [...paired, event('request.done')])).toBeUndefined()
})

test('a seed draws the same plan each time, with every phase, kind and victim in it', () => {
  const plan = drawPlan(new Random(1), 100).flat()
  expect(drawPlan(new Random(1), 100).flat()).toEqual(plan)
  expect(drawPlan(new Random(2), 100).flat()).not.toEqual(plan)
  expect(plan).toHaveLength(100)
  for (const aim of phases) {
    expect(plan.filter((fault) => fault.aim === aim).length, aim).toBeGreaterThan(9)
  }
  const different = new Set(plan.map(({ kind, victim }) => `${kind} ${victim}`))
  const possible = new Set(everyFault().map(({ kind, victim }) => `${kind} ${victim}`))
  expect(different).toEqual(possible)
})

test('a fault before hello follows one that starts decode again', () => {
  for (let seed = 0; seed < 50; seed++) {
    for (const round of drawPlan(new Random(seed), 100)) {
      const at = round.findIndex(({ aim }) => aim === 'before hello')
      if (at >= 0) expect(startsDecodeAgain(round[at - 1]!)).toBe(true)
    }
  }
})
