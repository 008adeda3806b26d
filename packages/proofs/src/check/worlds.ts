/** The worlds that are looked at, the smallest first. */
import { faultKinds, type Spec } from './spec.ts'

export const base: Omit<Spec, 'name'> = {
  ...{ fence: 'exit', sockets: false, layers: 1, pages: 1, promptPages: 1, credit: 1_000 },
  ...{ pageTokens: 1, prefixTokens: 0, wholeWrites: false, byLayers: false },
  ...{ jobs: 1, oneByOne: false, lacks: undefined, queued: [0, 0], late: false, slowHosts: false },
  ...{
    repeats: [],
    verify: false,
    tellsFaults: false,
    staysDead: false,
    tells: false,
    faults: [],
    most: 0,
  },
}

/** Everything but what worlds of their own have: a peer with a defect, and damage that digests show. */
const all = faultKinds.filter((kind) => kind !== 'unsaid message' && kind !== 'damaged bytes')
/** The same without what concerns certain engines only. */
const usual = all.filter((kind) => kind !== 'no settling')
const aborts = ['abort of prefill', 'abort of decode'] as const
const crashes = ['crash of prefill', 'crash of decode'] as const
const freezes = ['freeze of prefill', 'freeze of decode'] as const
const inTurn = { jobs: 2, oneByOne: true } as const
const together = { jobs: 2, pages: 2 } as const
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
  {
    ...base,
    name: 'prefix',
    pages: 2,
    promptPages: 2,
    pageTokens: 2,
    prefixTokens: 3,
    wholeWrites: true,
  },
  { ...base, name: 'by-layers', layers: 2, byLayers: true },
  { ...base, name: 'queued', queued: [35, 45] },
  { ...base, name: 'gone', staysDead: true, faults: crashes, most: 1 },
  { ...base, name: 'replaced', ...inTurn, fence: 'engine', faults: ['no settling'], most: 1 },
  {
    ...base,
    name: 'replaced-sockets',
    ...inTurn,
    fence: 'engine',
    sockets: true,
    faults: ['no settling'],
    most: 1,
  },
  { ...base, name: 'without-leg', ...together, lacks: 'prefill leg', credit: 2 },
  { ...base, name: 'without-pages', ...together, lacks: 'pages', late: true },
  { ...base, name: 'digests', verify: true, faults: ['damaged bytes', 'lost connection'], most: 1 },
  { ...base, name: 'unsaid', faults: ['unsaid message'], most: 1 },
  { ...base, name: 'unsaid-abort', faults: ['unsaid message', ...aborts], most: 2 },
  {
    ...base,
    name: 'abandoned',
    fence: 'engine',
    sockets: true,
    faults: ['crash of decode', 'no settling'],
    most: 2,
  },
]

const long: readonly Spec[] = [
  { ...base, name: 'calm-two', pages: 2, jobs: 2 },
  {
    ...base,
    name: 'digests-slow',
    verify: true,
    slowHosts: true,
    faults: ['damaged bytes', 'lost connection'],
    most: 1,
  },
  { ...base, name: 'said-again', repeats: ['up', 'down'], faults: ['lost connection'], most: 1 },
  { ...base, name: 'revoked', ...inTurn, fence: 'peer', faults: ['freeze of prefill'], most: 1 },
  { ...base, name: 'slow-hosts', slowHosts: true, faults: aborts, most: 1 },
  { ...base, name: 'exit', tells: true, faults: usual, most: 1 },
  { ...base, name: 'peer', fence: 'peer', faults: usual, most: 1 },
  { ...base, name: 'engine', fence: 'engine', faults: all, most: 1 },
  { ...base, name: 'sockets', fence: 'engine', sockets: true, faults: all, most: 1 },
  { ...base, name: 'late', late: true, fence: 'peer', faults: usual, most: 1 },
  { ...base, name: 'lost-twice', faults: ['lost connection'], most: 2 },
  { ...base, name: 'repeats-up', repeats: ['up'], faults: ['lost connection'], most: 2 },
  { ...base, name: 'repeats-down', repeats: ['down'], faults: ['lost connection'], most: 2 },
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

/** Of which only some schedules are looked at: everything may go wrong, several times, and something else follows. */
export const wide: readonly Spec[] = (['exit', 'peer', 'engine'] as const).flatMap((fence) => {
  const one = {
    ...base,
    ...inTurn,
    fence,
    repeats: ['up', 'down'] as const,
    verify: true,
    faults: all,
    most: 5,
  }
  return [
    { ...one, name: `wide-${fence}` },
    { ...one, name: `wide-${fence}-late`, late: true, sockets: true, queued: [6, 6] },
    { ...one, name: `wide-${fence}-slow`, slowHosts: true },
  ]
})

export const worlds: readonly Spec[] = [...quick, ...long]
