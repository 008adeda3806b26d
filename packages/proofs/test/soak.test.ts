/** Would a soak notice if something went wrong, or grew? */
import { expect, test } from 'vitest'
import { drawFault, kinds, type Window } from '../src/soak/faults.ts'
import { judge, lost, type Asked } from '../src/soak/judge.ts'
import { Worker } from '../src/soak/life.ts'
import { fit, slopesOf, type Sample } from '../src/soak/samples.ts'
import { bounds, leastSpanMs, soakDeadlines } from '../src/soak/settings.ts'
import { Random } from '@kvx/simulator'

const ok = { code: 'ok' }
const peerLost = { code: 'ERR_KVX_PEER_LOST', message: 'decode was lost.' }
const aborted = { code: 'ERR_KVX_ABORTED', message: 'aborted by the host' }
const gone = { code: 'gone' }

function asked(ends: Asked['ends'], more: Partial<Asked> = {}): Asked {
  return {
    ...{ number: 1, prefill: 'prefill-1', decode: 'decode-2', isAborted: false },
    ...{ startedAt: 1_000, endedAt: 2_000, ends },
    ...more,
  }
}

const kill: Window = {
  ...{ kind: 'kill', victim: 'decode-2', from: 1_500, until: 3_000 },
}
const over: Window = { ...kill, from: 100, until: 900 }
const blink: Window = { ...kill, kind: 'freeze, short' }

test.each([
  ['both legs succeed', asked({ prefill: ok, decode: ok }), [], 'ok'],
  ['a byte is wrong', asked({ prefill: ok, decode: { code: 'wrong' } }), [kill], 'wrong'],
  ['a leg has no end', asked({ prefill: lost, decode: ok }), [kill], 'lost'],
  ['prefill alone succeeds', asked({ prefill: ok, decode: peerLost }), [kill], 'wrong'],
  ['prefill succeeds, decode is killed', asked({ prefill: ok, decode: gone }), [kill], 'affected'],
  ['it fails in a fault', asked({ prefill: peerLost, decode: gone }), [kill], 'affected'],
  ['it fails without a fault', asked({ prefill: peerLost, decode: peerLost }), [], 'wrong'],
  ['it fails after a fault', asked({ prefill: peerLost, decode: peerLost }), [over], 'wrong'],
  ['a moment of frost fails it', asked({ prefill: peerLost, decode: peerLost }), [blink], 'wrong'],
  ['another process is gone', asked({ prefill: gone, decode: peerLost }), [kill], 'wrong'],
  [
    'it was aborted',
    asked({ prefill: aborted, decode: aborted }, { isAborted: true }),
    [],
    'aborted',
  ],
  [
    'decode was aborted before it had reserved',
    asked({ prefill: { code: 'ERR_KVX_TIMEOUT' }, decode: aborted }, { isAborted: true }),
    [],
    'aborted',
  ],
  [
    'prefill was aborted, and decode was not told',
    asked({ prefill: aborted, decode: { code: 'ERR_KVX_TIMEOUT' } }, { isAborted: true }),
    [],
    'wrong',
  ],
  ['nobody has aborted it', asked({ prefill: aborted, decode: aborted }), [kill], 'wrong'],
  [
    'its error comes too late',
    asked({ prefill: peerLost, decode: gone }, { endedAt: 60_000 }),
    [kill],
    'wrong',
  ],
] as const)('%s', (_, request, windows, kind) => {
  expect(judge(request, windows, 10_000).kind).toBe(kind)
})

test('who is kept is never killed, and every fault is drawn', () => {
  const workers = [true, false].map((isKept) => {
    const options = {
      ...{ role: 'decode' as const, backend: 'shm', instance: isKept ? 'kept' : 'mortal' },
      ...{ bootstrap: '', token: '', deadlines: soakDeadlines },
    } as const
    return new Worker(options, isKept, {})
  })
  const random = new Random(1)
  const drawn = Array.from({ length: 200 }, () => drawFault(random, workers, kinds))
  expect(new Set(drawn.map(({ kind }) => kind))).toEqual(new Set(kinds))
  const killed = drawn.filter(({ kind }) => kind === 'kill').map(({ victim }) => victim.isKept)
  expect(killed).not.toContain(true)
})

function samplesOf(perHour: number, ms: number): Sample[] {
  const random = new Random(7)
  return Array.from({ length: ms / 10_000 }, (_, i) => {
    const hours = i / 360
    return {
      ...{ worker: 'shm decode-1', seconds: 10 * i, 'leased pages': 0, 'quarantined pages': 0 },
      'resident bytes': 1e8 + hours * perHour + 4e6 * random.next(),
      ...{ 'heap bytes': 1e7, descriptors: 50, threads: 20 },
    }
  })
}

const kept = { worker: 'shm decode-1', engine: 'shm', faultsAnHour: 100 }

test.each([
  ['more than the bound', 2, true],
  ['half of the bound', 0.5, false],
  ['nothing', 0, false],
])('memory that grows by %s an hour, and jumps, is a leak: %d times, %s', (_, times, isGrowing) => {
  const samples = samplesOf(times * bounds['resident bytes'], 2 * 3_600_000)
  const slopes = slopesOf(samples, [kept])
  const memory = slopes.find(({ what }) => what === 'resident bytes')
  expect(memory).toMatchObject({ isGrowing })
  const others = slopes.filter(({ what }) => what !== 'resident bytes')
  expect(others.every((one) => one.isGrowing === false)).toBe(true)
})

test('what a vendor keeps for each ended link is in the bound of its engine, and in no other', () => {
  const samples = samplesOf(2 * bounds['resident bytes'], 2 * 3_600_000)
  const grown = (engine: string) =>
    slopesOf(samples, [{ ...kept, engine }]).filter(({ isGrowing }) => isGrowing === true)
  expect(grown('mori')).toEqual([])
  expect(grown('mooncake')).toMatchObject([{ what: 'resident bytes' }])
})

test('of a short run no slope is judged', () => {
  const slopes = slopesOf(samplesOf(1e12, leastSpanMs), [kept])
  expect(slopes.some((slope) => 'isGrowing' in slope)).toBe(false)
})

test('the slope of points on a line is that of the line, without doubt', () => {
  const { slope, error } = fit([0, 1, 2, 3].map((x) => [x, 5 - 2 * x]))
  expect(slope).toBeCloseTo(-2)
  expect(error).toBeCloseTo(0)
})
