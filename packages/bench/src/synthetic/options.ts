/** What a synthetic run is told, and what follows from it before any process is started. */
import { KvxError } from '@kvx/contract'
import {
  checkPlace,
  checkShape,
  countHeld,
  divisionObjection,
  heldTokens,
  prefixBlock,
  rankObjection,
  type CacheShape,
  type PageOrder,
  type Place,
  type Rank,
} from '@kvx/core/bytes'
import { modelNames, type ModelName } from '../models.ts'
import { placeOf, type PlaceOptions } from '../place.ts'
import { ranksOf, type Topology } from '../ranks.ts'
import { shapeOf, type ShapeOptions } from '../shape.ts'
import type { Where } from '../transfer/side.ts'

export type DpRouting = 'room' | 'given' | 'published'

/** One instance: its ranks, and how each of them keeps its pages. */
export interface SideOptions extends Topology {
  /** Tokens of a page. Default: 16. */
  readonly pageTokens?: number | undefined
  /** Order within a page. Default: `NHD`. */
  readonly order?: PageOrder | undefined
}

export interface SyntheticOptions extends ShapeOptions {
  /** One of the table, or any shape; then the options of a shape are not looked at. */
  readonly model: ModelName | CacheShape
  readonly prefill?: SideOptions
  readonly decode?: SideOptions
  /** Of each prompt. */
  readonly tokens: number
  /** How many of them decode has already; rounded down to whole pages unless it is all of them. Default: 0. */
  readonly prefix?: number | undefined
  /** Prefill computes and writes so many tokens at once. Default: all. */
  readonly chunk?: number | undefined
  /** Prefill writes so many layers at once. Default: all. */
  readonly layersPerWrite?: number | undefined
  /** The layer ranges of a chunk are written in a random order. */
  readonly outOfOrder?: boolean | undefined
  /** Default: 1. */
  readonly requests?: number | undefined
  /** Requests under way at once. Default: 1. */
  readonly concurrency?: number | undefined
  /** Where their caches lie: memory of the host, or the number of a GPU; there bytes are neither filled nor looked at. Default: `cpu`. */
  readonly memory?: readonly [prefill: Where, decode: Where] | undefined
  /** What writes cost is in the report. */
  readonly measure?: boolean | undefined
  /** The pages of a request follow one another. Default: they are scattered over the pool. */
  readonly contiguous?: boolean | undefined
  /** Name, package or path, looked for from `from`. */
  readonly backend: string
  readonly backendOptions?: Readonly<Record<string, unknown>> | undefined
  /** A folder or file. Default: the working directory. */
  readonly from?: string | undefined
  /** Digests of what was sent are compared with what arrived, beside the bytes. */
  readonly verifyKV?: boolean | undefined
  /**
   * How decode learns which of prefill's data-parallel ranks computes a request: `room` (by its number), `given` (both sides are
   * told), `published` (prefill tells at its bootstrap service). Default: `room`.
   */
  readonly dpRouting?: DpRouting | undefined
  /** Only to measure: prefill sends the random bytes that its memory begins with, and decode looks at none. */
  readonly unverified?: boolean | undefined
  /** Every so many requests one is aborted once all prefill ranks have written something of it. */
  readonly abort?: { readonly every: number; readonly by: 'prefill' | 'decode' } | undefined
  /**
   * Prefill computes nothing and answers at once, as the one that SGLang's warm-up asks: no page moves, slots hold
   * whatever they held, and the first token is 0.
   */
  readonly fake?: boolean | undefined
  /** Of the bytes and the order of pages. Default: 1. */
  readonly seed?: number | undefined
  /** A folder with another installation of this package, whose build the processes of a side run. Default: this build. */
  readonly builds?: { readonly prefill?: string; readonly decode?: string } | undefined
  /** Ends the run: its processes are killed. */
  readonly signal?: AbortSignal | undefined
  /** Called once all ranks are there, and after each request. */
  readonly onProgress?: ((ended: number, requests: number) => void) | undefined
}

/** What a rank is told before anything else, as it travels between processes. */
export interface RankOptions {
  readonly role: 'prefill' | 'decode'
  readonly rank: Rank
  readonly shape: CacheShape
  readonly place: Place
  readonly regionBytes: readonly number[]
  readonly instance: string
  readonly bootstrap: string
  readonly token: string
  readonly backend: string
  readonly backendOptions: Readonly<Record<string, unknown>>
  readonly from: string
  readonly verifyKV: boolean
  readonly isVerified: boolean
  readonly isContiguous: boolean
  readonly isMeasured: boolean
  readonly where: Where
}

/** One request, as every rank that takes part in it is told. */
export interface Job {
  readonly room: string
  readonly seed: number
  readonly tokens: number
  readonly prefix: number
  readonly chunk: number
  readonly layersPerWrite: number | undefined
  readonly outOfOrder: boolean
  readonly isFake: boolean
  /** Prefill's data-parallel rank that computes it, and what decode and prefill are told of it. */
  readonly prefillDp: number
  readonly dpRank: { readonly dpRank?: number | 'published' }
  /** Prefill stops after its first write, until the request is aborted. */
  readonly isAborted: boolean
  /** Of a trace: the blocks of the prompt; decode keeps whole ones for later requests. */
  readonly blocks?: readonly number[]
  /** Of a trace: for so long decode keeps the pages of the answer, as if it generated. */
  readonly holdMs?: number
  /** Where prefill publishes itself, where there are several. Default: as `RankOptions.bootstrap`. */
  readonly from?: string
}

/** A rank without what only the run knows. */
export type PlacedRank = Pick<RankOptions, 'role' | 'rank' | 'place' | 'regionBytes'>

export interface Plan {
  readonly shape: CacheShape
  readonly ranks: readonly PlacedRank[]
  readonly prefix: number
  readonly chunk: number
  readonly requests: number
  readonly concurrency: number
  readonly seed: number
}

/** @throws KvxError `ERR_KVX_INVALID_ARGUMENT`, `ERR_KVX_LAYOUT_MISMATCH` */
export function planOf(options: SyntheticOptions): Plan {
  const { model, tokens, requests = 1, seed = 1 } = options
  if (typeof model === 'string' && !modelNames.includes(model)) {
    throw invalid(`model must be one of ${modelNames.join(', ')}, got '${model as string}'`)
  }
  positive({ tokens, requests, ...numbersOf(options) })
  const { prefix = 0, chunk = tokens } = options
  if (!Number.isSafeInteger(prefix) || prefix < 0 || prefix > tokens) {
    throw invalid(
      `prefix must be an integer from 0 to the ${String(tokens)} tokens of a prompt, got ${String(prefix)}`,
    )
  }
  if (options.fake === true && (options.prefix !== undefined || options.abort)) {
    throw invalid('a fake prefill sends nothing, so that prefix and abort do not go with it')
  }
  if (!Number.isInteger(seed) || seed < 0 || seed >= 2 ** 32) {
    throw invalid(`seed must be an integer from 0 to ${String(2 ** 32 - 1)}, got ${String(seed)}`)
  }
  if (options.unverified !== true && options.memory?.some((where) => where !== 'cpu') === true) {
    throw invalid('bytes in the memory of a GPU cannot be looked at: it goes with unverified only')
  }
  const concurrency = Math.min(options.concurrency ?? 1, requests)
  const shape = typeof model === 'string' ? shapeOf(model, options) : model
  checkShape(shape)
  const prompts = { shape, tokens, concurrency }
  const prefill = placed('prefill', options.prefill ?? {}, prompts)
  const decode = placed('decode', options.decode ?? {}, prompts)
  const [first] = decode
  const block = first === undefined ? 1 : prefixBlock(shape, first.rank, first.place)
  return {
    ...{ shape, chunk, requests, concurrency, seed, ranks: [...prefill, ...decode] },
    prefix:
      prefix === tokens || options.fake === true ? tokens : Math.floor(prefix / block) * block,
  }
}

function numbersOf(options: SyntheticOptions): Record<string, number> {
  const { layers, chunk, layersPerWrite, concurrency, prefill, decode } = options
  const named = {
    ...{ layers, chunk, layersPerWrite, concurrency, 'abort.every': options.abort?.every },
    ...{ 'prefill.pageTokens': prefill?.pageTokens, 'decode.pageTokens': decode?.pageTokens },
  }
  const given = Object.entries(named).filter((entry): entry is [string, number] => {
    return entry[1] !== undefined
  })
  return Object.fromEntries(given)
}

function positive(numbers: Readonly<Record<string, number>>): void {
  for (const [name, value] of Object.entries(numbers)) {
    if (Number.isSafeInteger(value) && value > 0) continue
    throw invalid(`${name} must be a positive integer, got ${String(value)}`)
  }
}

/** What a region may have, so that one view spans it. */
const largestRegion = 2 ** 32
/** Pages of a pool that no request needs, so that lists of pages have gaps. */
const sparePages = 3

/** All ranks of a side, each with pages for as many prompts as are under way at once. */
function placed(
  role: 'prefill' | 'decode',
  { pageTokens = 16, order = 'NHD', ...topology }: SideOptions,
  { shape, tokens, concurrency }: { shape: CacheShape; tokens: number; concurrency: number },
): PlacedRank[] {
  return ranksOf(topology, shape.layers).map((rank): PlacedRank => {
    const misfit = rankObjection(rank)
    if (misfit !== undefined) throw invalid(`the ranks of ${role} cannot be: ${misfit}`)
    const uneven = divisionObjection(shape, rank, role)
    if (uneven !== undefined) throw invalid(uneven)
    if (rank.cpSize > 1 && topology.context === undefined) {
      throw invalid(
        `${role} has ${String(rank.cpSize)} context-parallel ranks: its context must say which tokens each has, all, contiguous or interleaved`,
      )
    }
    const held = countHeld(heldTokens(rank, tokens, pageTokens), 0, tokens)
    const pages = Math.max(1, Math.ceil(held / pageTokens)) * concurrency + sparePages
    return placedIn(role, shape, rank, { pageTokens, order, pages, slots: concurrency + 1 })
  })
}

/**
 * A rank with its regions, each of which one view spans.
 * @throws KvxError `ERR_KVX_INVALID_ARGUMENT` when even a single tensor is too large
 */
export function placedIn(
  role: 'prefill' | 'decode',
  shape: CacheShape,
  rank: Rank,
  size: PlaceOptions,
): PlacedRank {
  const whole = placeOf(shape, rank, size)
  const parts = Math.ceil(Math.max(...whole.regionBytes) / largestRegion)
  const tensorsPerRegion = Math.ceil(whole.place.tensors.length / parts / 2)
  const made = parts === 1 ? whole : placeOf(shape, rank, { ...size, tensorsPerRegion })
  const largest = Math.max(...made.regionBytes)
  if (largest > largestRegion) {
    throw invalid(
      `a rank of ${role} would need a region of ${String(largest)} bytes, and one view spans ${String(largestRegion)}: take fewer layers, tokens, or requests at once`,
    )
  }
  checkPlace(shape, rank, made.place, made.regionBytes)
  return { role, rank, ...made }
}

export function invalid(text: string): KvxError {
  return new KvxError('ERR_KVX_INVALID_ARGUMENT', `The synthetic host: ${text}.`, { phase: 'open' })
}
