/** Cells of the coverage table that hardly any schedule comes to: how they are come to all the same. */
import type { Guide } from './guide.ts'
import type { Spec } from './spec.ts'
import { base } from './worlds.ts'

export interface Seldom extends Guide {
  /** Row and column. */
  readonly cell: string
  readonly spec: Spec
}

const lost = 'lost connection'
const ready = 'decode hears ready(p1 to d1, d1e1, epoch 1) on c1'
const ready2 = 'decode hears ready(p1 to d1, d1e1, epoch 1) on c2'
const progress = 'decode hears progress(p1 to d1, d1e1, epoch 1) on c1'
const lostAndAborted = [
  'FAULT c1 breaks, what was on its way is lost',
  'FAULT the host of prefill aborts',
  'decode connects',
]
const frozenAndRefused = [
  'FAULT decode stands still',
  'FAULT c1 breaks, what was on its way is lost',
  '11 ms pass',
  'prefill ticks',
  'decode is thawed',
  'decode connects',
  'the transport says again: reserve',
  'decode hears refuse',
]
const waiting = 'decode has compared'

export const seldom: readonly Seldom[] = [
  {
    cell: 'D drained verifying, reconnect',
    spec: {
      ...{ ...base, name: 'drained while verifying', verify: true, repeats: ['down'] },
      ...{ faults: ['abort of prefill', lost], most: 2 },
    },
    avoided: [waiting],
    wanted: [
      'decode hears complete',
      'FAULT the host of prefill aborts',
      'FAULT c1 breaks, what was on its way is lost',
      'decode connects',
      'the transport says again: drained',
      'decode hears drained',
    ],
  },
  {
    cell: 'D drained reserving, freeze',
    spec: {
      ...{ ...base, name: 'drained while reserving' },
      ...{ faults: ['freeze of decode', 'late settling', lost], most: 3 },
    },
    avoided: [
      'decode hears accept',
      'decode hears progress',
      'decode ticks',
      'decode is thawed',
      'write 1 settles',
    ],
    wanted: [
      'write 1 has landed',
      'FAULT decode stands still',
      'FAULT write 1 settles late',
      'FAULT c1 breaks, what was on its way is lost',
      '11 ms pass',
      'prefill ticks',
      'decode is thawed',
      'decode connects',
      'decode hears welcome',
      'write 1 settles',
      'decode hears drained',
    ],
  },
  {
    cell: 'D refuse(reserve) verifying, freeze',
    spec: {
      ...{ ...base, name: 'refused while verifying', verify: true, slowHosts: true },
      ...{ repeats: ['up'], faults: ['freeze of decode', lost], most: 2 },
    },
    avoided: [waiting, 'decode is thawed', 'decode ticks'],
    wanted: ['decode hears complete', ...frozenAndRefused],
  },
  {
    cell: 'D ready verifying, abort',
    spec: {
      ...{ ...base, name: 'asked for pages while verifying', verify: true, late: true },
      ...{ faults: ['abort of prefill', lost], most: 2 },
    },
    avoided: [
      waiting,
      'decode hears accept(p1 to d1, d1e1, epoch 1, paired) on c1',
      ready,
      'what was on c1',
    ],
    wanted: [
      'prefill writes',
      'FAULT c1 breaks, what is on its way may arrive',
      'decode connects',
      'decode hears complete',
      'FAULT the host of prefill aborts',
      'decode hears accept(p1 to d1, d1e1, epoch 1, paired) on c1',
      ready,
    ],
  },
  {
    cell: 'D pong connecting, reconnect',
    spec: { ...base, name: 'pong of a lost connection', faults: [lost], most: 1 },
    avoided: ['decode hears pong', 'what was on c1', 'decode connects'],
    wanted: [
      'decode connects',
      'prefill hears ping',
      'FAULT c1 breaks, what is on its way may arrive',
      'decode notices the end of c1',
      'decode hears pong',
    ],
  },
  {
    cell: 'D ready reserving, abort',
    spec: {
      ...{ ...base, name: 'asked for pages while reserving', late: true, repeats: ['down'] },
      ...{ faults: ['abort of prefill', lost], most: 2 },
    },
    avoided: ['decode hears accept'],
    wanted: ['prefill writes', ...lostAndAborted, 'the transport says again: ready', ready2],
  },
  {
    cell: 'D progress reserving, abort',
    spec: {
      ...{ ...base, name: 'progress while reserving', repeats: ['down'] },
      ...{ faults: ['abort of prefill', lost], most: 2 },
    },
    avoided: ['decode hears accept', 'decode hears progress', 'write 1 settles'],
    wanted: [
      ...['write 1 has landed', ...lostAndAborted],
      ...['the transport says again: progress', 'decode hears progress'],
    ],
  },
  {
    cell: 'D drained reserving, abort',
    spec: {
      ...{ ...base, name: 'drained after an abort', repeats: ['down'] },
      ...{ faults: ['abort of prefill', lost], most: 2 },
    },
    avoided: ['decode hears accept', 'decode hears failed', 'decode hears drained'],
    wanted: [
      'decode reserves',
      'prefill hears reserve',
      'FAULT the host of prefill aborts',
      'FAULT c1 breaks, what was on its way is lost',
      'decode connects',
      'the transport says again: drained',
      'decode hears drained',
    ],
  },
  {
    cell: 'D complete verifying, abort',
    spec: {
      ...{ ...base, name: 'complete again while verifying', verify: true, repeats: ['down'] },
      ...{ faults: ['abort of prefill', lost], most: 2 },
    },
    avoided: [waiting],
    wanted: [
      ...['decode hears complete', ...lostAndAborted],
      ...['the transport says again: complete', 'decode hears complete'],
    ],
  },
  {
    cell: 'D progress verifying, abort',
    spec: {
      ...{ ...base, name: 'progress while verifying', verify: true },
      ...{ faults: ['abort of prefill', lost], most: 2 },
    },
    avoided: [waiting, progress, 'what was on c1'],
    wanted: [
      'write 1 has landed',
      'FAULT c1 breaks, what is on its way may arrive',
      'decode connects',
      'decode hears complete',
      'FAULT the host of prefill aborts',
      progress,
    ],
  },
  {
    cell: 'D refuse(reserve) verifying, abort',
    spec: {
      ...{ ...base, name: 'refused after an abort', verify: true, slowHosts: true },
      ...{ repeats: ['up'], faults: ['freeze of decode', 'abort of prefill', lost], most: 3 },
    },
    avoided: [waiting, 'decode is thawed', 'decode ticks', 'decode hears failed'],
    wanted: ['decode hears complete', 'FAULT the host of prefill aborts', ...frozenAndRefused],
  },
]
