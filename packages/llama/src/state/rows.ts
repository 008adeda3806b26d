/** The bytes of a cache between the state of a sequence and the pages of a pool. */
import { KvxError, type Memory } from '@kvx/contract'
import { tensorName, type ComponentShape, type TensorPlace } from '@kvx/core/bytes'
import { gather, scatter } from '@kvx/native'
import type { ModelCache } from '../cache.ts'
import type { Rows } from './blob.ts'
import { firstNeeded } from './geometry.ts'

/**
 * By component. Of one that is addressed by tokens: the last pages of a prompt, in its order, from the one with the first
 * token that is needed, or an earlier one. Of one that is addressed by request: one slot.
 */
export type CachePages = Readonly<Record<string, Int32Array>>

/** A pool with the pages of one prompt. */
export interface PromptCache {
  readonly cache: ModelCache
  readonly memory: Memory
  readonly pages: CachePages
  /** Of the prompt. */
  readonly tokens: number
}

/**
 * Puts what a state has of the half-open range of tokens into the pages, and with the last token also what is kept by
 * request. Tokens that the prompt as a whole does not need are left out.
 *
 * @param rows of the state
 */
export function saveRows(
  blob: Uint8Array,
  rows: readonly Rows[],
  prompt: PromptCache,
  range: readonly [number, number],
): void {
  copyRows(scatter, blob, rows, prompt, range)
}

/** Puts all that is needed of a prompt into a state of all its tokens. */
export function loadRows(blob: Uint8Array, rows: readonly Rows[], prompt: PromptCache): void {
  copyRows(gather, blob, rows, prompt, [0, prompt.tokens])
}

/** Numbers of a page among those of a prompt: of the first that is needed, and how many the prompt has. */
export function pageRange(
  { window }: Pick<ComponentShape, 'window'>,
  tokens: number,
  pageTokens: number,
): readonly [number, number] {
  const needed = firstNeeded(window === undefined ? {} : { window }, tokens)
  return [Math.floor(needed / pageTokens), Math.ceil(tokens / pageTokens)]
}

/** @throws KvxError `ERR_KVX_INVALID_ARGUMENT` when these cannot be the pages of so many tokens */
export function checkPages({ shape, place }: ModelCache, tokens: number, pages: CachePages): void {
  const names = shape.components.map(({ name }) => name)
  const unknown = Object.keys(pages).find((name) => !names.includes(name))
  if (unknown !== undefined) {
    throw refused(`The model has no component '${unknown}', only ${names.join(', ')}.`)
  }
  for (const component of shape.components) {
    const { name } = component
    const given = pages[name] ?? Int32Array.of()
    const { pageTokens, pages: exist } = place.components[name] ?? { pages: 0 }
    if (pageTokens === undefined) {
      if (given.length !== 1) {
        throw refused(`A prompt needs one slot of '${name}', not ${String(given.length)}.`)
      }
    } else {
      const [first, end] = pageRange(component, tokens, pageTokens)
      if (given.length < end - first || given.length > end) {
        throw refused(
          `${String(tokens)} tokens need ${String(end - first)} pages of '${name}', not ${String(given.length)}.`,
        )
      }
    }
    const foreign = given.find((page) => page < 0 || page >= exist)
    if (foreign !== undefined) {
      throw refused(
        `There is no page ${String(foreign)} of '${name}'; the pool has ${String(exist)}.`,
      )
    }
    if (new Set(given).size !== given.length) throw refused(`A page of '${name}' is named twice.`)
  }
}

type Copy = typeof scatter

function copyRows(
  copy: Copy,
  buffer: Uint8Array,
  rows: readonly Rows[],
  prompt: PromptCache,
  [start, end]: readonly [number, number],
): void {
  const { memory, tokens } = prompt
  const places = new Map(
    prompt.cache.place.tensors.map((place) => [tensorName(place.component, place), place]),
  )
  for (const component of prompt.cache.shape.components) {
    const { name } = component
    const mine = rows.filter((one) => one.component === name)
    const pages = prompt.pages[name] ?? Int32Array.of()
    const { pageTokens = 1 } = prompt.cache.place.components[name] ?? {}
    const run = (first: Position, count: number) => {
      const tensors = Float64Array.from(
        mine.flatMap((one) => lane(one, placeOf(places, one), pageTokens, first)),
      )
      const from = pages.subarray(first.page)
      copy({ buffer, memory, tensors, pages: from, pageTokens, from: 0, to: count })
    }
    if (component.addressed === 'request') {
      if (end === tokens) run({ row: 0, page: 0, inPage: 0 }, 1)
      continue
    }
    const needed = pageRange(component, tokens, 1)[0]
    const base = (Math.ceil(tokens / pageTokens) - pages.length) * pageTokens
    const rowOf = base - (mine[0]?.tokens?.[0] ?? 0)
    // Up to the end of a page that is begun in its middle, and from there on.
    const [from, to] = [Math.max(start, needed) - base, end - base]
    const edge = Math.min(to, Math.ceil(from / pageTokens) * pageTokens)
    for (const [first, last] of [
      [from, edge],
      [edge, to],
    ] as const) {
      if (first >= last) continue
      const page = Math.floor(first / pageTokens)
      run({ row: first + rowOf, page, inPage: first % pageTokens }, last - first)
    }
  }
}

/** Where a copy begins: the row of the state, the page in the list, and the token in that page. */
interface Position {
  readonly row: number
  readonly page: number
  readonly inPage: number
}

/** A row for `scatter` and `gather`. */
function lane(
  { offset, rowBytes, runs, stride }: Rows,
  { base, pageBytes }: TensorPlace,
  pageTokens: number,
  { row, inPage }: Position,
): number[] {
  const [inState, inPool] = [offset + row * rowBytes, base + inPage * rowBytes]
  return [inState, stride, inPool, pageBytes, pageTokens * rowBytes, runs, rowBytes]
}

function placeOf(places: ReadonlyMap<string, TensorPlace>, rows: Rows): TensorPlace {
  const name = tensorName(rows.component, rows)
  const place = places.get(name)
  if (place) return place
  throw new KvxError('ERR_KVX_INTERNAL', `The place of ${name} is not known.`)
}

function refused(why: string): KvxError {
  return new KvxError('ERR_KVX_INVALID_ARGUMENT', why)
}
