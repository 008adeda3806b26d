/** What a schedule is about: which processes there are, and how they are set. */
import type { FenceKind } from '@kvx/contract'
import type { Deadlines, Limits } from '@kvx/core'
import type { StagingSize } from '@kvx/core/protocol'
import type { Rank } from '@kvx/core'
import { drawKeeping, drawModel, type Keeping, type Model } from './model.ts'
import type { Random } from './random.ts'
import { drawRanks, isSingle, topologies, type Cut } from './topology.ts'

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
  readonly prefills: readonly Instance[]
  readonly decodes: readonly Instance[]
  readonly verify: boolean
  /** Runs that are shorter in the mean are staged, where both sides have memory for it. */
  readonly staging: {
    readonly shortRun: number
    readonly fewestRuns: number
    readonly prefill: StagingSize | undefined
    readonly decode: StagingSize | undefined
  }
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

export interface Instance {
  readonly ranks: readonly Rank[]
  readonly keeping: Keeping
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
    Array.from({ length: count }, (): Instance => ({
      ranks: drawRanks(random, cut, model.cache),
      keeping: drawKeeping(random, model),
    }))
  return {
    mode,
    fence,
    medium: random.chance(0.6) ? 'network card' : 'sockets',
    model,
    prefills: build(prefill, prefills),
    decodes: build(decode, decodes),
    verify: random.chance(0.25),
    staging: drawStaging(random),
    deadlines,
    limits: drawLimits(random),
    checked: random.chance(1 / 64),
    repeats: random.chance(0.15),
    horizon: random.between(600, 2_600),
    queue: random.chance(0.5) ? random.between(1, 3) : 1_000,
  }
}

function drawStaging(random: Random): Shape['staging'] {
  const draw = () => {
    if (random.chance(0.1)) return undefined
    return { bays: random.one([1, 1, 2, 4]), bayBytes: random.one([8, 24, 64, 256]) }
  }
  const [shortRun, fewestRuns] = [random.one([3, 8, 1_000]), random.one([1, 8])]
  return { shortRun, fewestRuns, prefill: draw(), decode: draw() }
}

export function stagingBytes(size: StagingSize | undefined): number {
  return size ? size.bays * size.bayBytes : 0
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
    stagingBytes: 0,
  }
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
