/** What a schedule is about: which processes there are, and how they are set. */
import type { FenceKind } from '@kvx/contract'
import type { Deadlines, Limits } from '@kvx/core'
import { makeRank, type Rank } from '@kvx/core/protocol'
import type { Model } from './content.ts'
import type { Random } from './random.ts'

export type Mode = 'safety' | 'liveness'
export const modes: readonly Mode[] = ['safety', 'liveness']
export const fences: readonly FenceKind[] = ['peer', 'engine', 'exit']

export interface Shape {
  readonly mode: Mode
  readonly fence: FenceKind
  /**
   * Of an engine with fence kind `engine`. `network card`: what was posted lands by itself, and closing
   * the writer's engine ends it. `sockets`: the target's own threads put it into memory, also after the
   * writer is gone; closing the writer's engine promises nothing.
   */
  readonly medium: 'network card' | 'sockets'
  readonly model: Model
  /** Ranks of each instance. */
  readonly prefills: readonly (readonly Rank[])[]
  readonly decodes: readonly (readonly Rank[])[]
  readonly verify: boolean
  readonly deadlines: Deadlines
  readonly limits: Limits
  /** Every message is checked against its schema, as a frame would be. */
  readonly checked: boolean
  /** The transport sends again what it does not know to have arrived (network/wire.ts). */
  readonly repeats: boolean
  /** Moment at which the faults stop. */
  readonly horizon: number
  /** Messages that a side queues for one that does not read; then the connection is cut. */
  readonly queue: number
}

/** Milliseconds of virtual time; each different, so that a trace tells which one it was. */
export const deadlines: Deadlines = {
  hello: 900,
  probe: 400,
  reserve: 800,
  pairing: 1_500,
  progress: 1_700,
  queue: 6_000,
  transfer: 600,
  linger: 750,
  peerSilent: 1_000,
  ping: 330,
  drain: 300,
  recycle: 500,
}

/** A registration that is not renewed is forgotten after so long. */
export const lease = 650
/** Between two ticks of a process, at most. */
export const tickAtMost = 320

interface Cut {
  readonly tp?: number
  readonly pp?: number
  readonly dp?: number
}

/** Prefill and decode, and how often. Models have two heads and up to three layers. */
const topologies: readonly (readonly [weight: number, prefill: Cut, decode: Cut])[] = [
  [44, {}, {}],
  [8, { pp: 2 }, {}],
  [8, {}, { pp: 2 }],
  [8, { tp: 2 }, {}],
  [8, {}, { tp: 2 }],
  [5, { tp: 2 }, { tp: 2 }],
  [4, { pp: 2 }, { pp: 2 }],
  [5, { pp: 2 }, { tp: 2 }],
  [3, { tp: 2 }, { pp: 2 }],
  [5, { dp: 2 }, {}],
  [2, { dp: 2 }, { dp: 2 }],
]

const fewInstances = [
  [2, 1],
  [1, 2],
] as const
const manyInstances = [...fewInstances, [2, 2]] as const

export function drawShape(random: Random, only: { mode?: Mode; fence?: FenceKind } = {}): Shape {
  const drawn = { mode: random.one(modes), fence: random.one(fences) }
  const { mode, fence } = { ...drawn, ...only }
  const model = drawModel(random)
  const [, prefill, decode] = weighted(random, topologies)
  const single = isSingle(prefill) && isSingle(decode)
  // Liveness is of interest where somebody else stays broken.
  const others = mode === 'liveness' ? (single ? 1 : 0.5) : single ? 0.5 : 0.15
  const several = random.chance(others)
  // Instances of several ranks are enough processes as they are: two of one side at most.
  const counts = random.one(single ? manyInstances : fewInstances)
  const [prefills, decodes] = several ? counts : [1, 1]
  const build = (cut: Cut, count: number) =>
    Array.from({ length: count }, () => drawRanks(random, cut, model.layers))
  return {
    mode,
    fence,
    medium: random.chance(0.6) ? 'network card' : 'sockets',
    model,
    prefills: build(prefill, prefills),
    decodes: build(decode, decodes),
    verify: random.chance(0.25),
    deadlines,
    limits: drawLimits(random),
    checked: random.chance(1 / 64),
    repeats: random.chance(0.15),
    horizon: random.between(600, 2_600),
    queue: random.chance(0.5) ? random.between(1, 3) : 1_000,
  }
}

function drawModel(random: Random): Model {
  const layers = random.between(2, 3)
  const stateLayers = random.one([[], [], [0], [0, layers - 1]])
  return {
    layers,
    heads: 2,
    pageTokens: random.one([1, 2, 2]),
    headBytes: 1,
    parts: random.chance(0.7) ? ['k', 'v'] : ['latent'],
    order: random.chance(0.7) ? 'token-major' : 'head-major',
    stateLayers,
    pages: { kv: random.between(5, 9), mamba: 3 },
  }
}

function drawLimits(random: Random): Limits {
  const tight = random.chance(0.3)
  return {
    parkedPerPeer: tight ? random.between(1, 2) : 6,
    bytesInFlightPerPeer: random.one([1, 16, 40, 4_096]),
    auxBytes: 8,
    requests: tight ? random.between(2, 3) : 8,
    quarantineShare: random.one([0.25, 0.5]),
    peers: 8,
  }
}

function drawRanks(random: Random, { tp = 1, pp = 1, dp = 1 }: Cut, layers: number): Rank[] {
  // Unlike stages on the two sides: every rank of one has bytes for several of the other.
  const stages = pp === 2 ? [0, random.between(1, layers - 1), layers] : [0, layers]
  const ranks: Rank[] = []
  for (let d = 0; d < dp; d++) {
    for (let p = 0; p < pp; p++) {
      for (let t = 0; t < tp; t++) {
        ranks.push(
          makeRank(layers, { tp: t, tpSize: tp, pp: p, ppSize: pp, dp: d, dpSize: dp, stages }),
        )
      }
    }
  }
  return ranks
}

function isSingle({ tp = 1, pp = 1, dp = 1 }: Cut): boolean {
  return tp * pp * dp === 1
}

function weighted<T extends readonly [number, ...unknown[]]>(
  random: Random,
  list: readonly T[],
): T {
  let left = random.next() * list.reduce((sum, [weight]) => sum + weight, 0)
  for (const item of list) {
    left -= item[0]
    if (left < 0) return item
  }
  return list[0]!
}
