/** The worlds that are looked at, the smallest first. */
import { faultKinds, type Spec } from './spec.ts'

const base: Omit<Spec, 'name'> = {
  ...{ fence: 'exit', sockets: false, layers: 1, pages: 1, promptPages: 1, credit: 1_000 },
  ...{ jobs: 1, oneByOne: false, late: false, slowHosts: false, repeats: false, tells: false },
  ...{ faults: [], most: 0 },
}

/** Everything but what concerns certain engines only. */
const all = faultKinds.filter((kind) => kind !== 'no settling')
const aborts = ['abort of prefill', 'abort of decode'] as const
const crashes = ['crash of prefill', 'crash of decode'] as const
const freezes = ['freeze of prefill', 'freeze of decode'] as const
const ofWrites = ['failed write', 'lost completion', 'late settling'] as const

/** Those that are exhausted in seconds: `npm test` has them. */
export const quick: readonly Spec[] = [
  { ...base, name: 'calm' },
  { ...base, name: 'late-pages', late: true },
  { ...base, name: 'two-writes', pages: 2, promptPages: 2, credit: 2 },
  { ...base, name: 'one-by-one', jobs: 2, oneByOne: true, faults: aborts, most: 1 },
  { ...base, name: 'lost', faults: ['lost connection'], most: 1 },
  { ...base, name: 'crash', fence: 'peer', faults: crashes, most: 1 },
  { ...base, name: 'write', fence: 'engine', faults: [...ofWrites, 'no settling'], most: 1 },
]

const long: readonly Spec[] = [
  { ...base, name: 'calm-two', pages: 2, jobs: 2 },
  { ...base, name: 'slow-hosts', slowHosts: true, faults: aborts, most: 1 },
  { ...base, name: 'exit', tells: true, faults: all, most: 1 },
  { ...base, name: 'peer', fence: 'peer', faults: all, most: 1 },
  { ...base, name: 'engine', fence: 'engine', faults: faultKinds, most: 1 },
  { ...base, name: 'sockets', fence: 'engine', sockets: true, faults: faultKinds, most: 1 },
  { ...base, name: 'late', late: true, fence: 'peer', faults: all, most: 1 },
  { ...base, name: 'lost-twice', faults: ['lost connection'], most: 2 },
  { ...base, name: 'repeats', repeats: true, faults: ['lost connection'], most: 2 },
  { ...base, name: 'abort-lost', faults: [...aborts, 'lost connection'], most: 2 },
  { ...base, name: 'crash-twice', fence: 'peer', faults: crashes, most: 2 },
  {
    ...base,
    name: 'crash-write',
    fence: 'engine',
    faults: ['crash of prefill', ...ofWrites],
    most: 2,
  },
  { ...base, name: 'write-twice', fence: 'engine', faults: [...ofWrites, 'no settling'], most: 2 },
  { ...base, name: 'freeze-abort', fence: 'peer', faults: [...freezes, ...aborts], most: 2 },
]

export const worlds: readonly Spec[] = [...quick, ...long]
