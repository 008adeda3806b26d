import * as v from 'valibot'
import { KvxError } from '@kvx/contract'
import { checked, exactly, having, integer, isObject, such } from './arguments.ts'
import type { Place } from './place/index.ts'
import { prefixBlock, providedPages } from './plan/index.ts'
import type { CacheShape } from './shape/index.ts'
import { makeRank, type Rank } from './share/index.ts'

const object = such<object>('an object', isObject)
const cacheSchema = having({ shape: object, place: object, rank: v.optional(object) })
const promptSchema = exactly({ tokens: integer(1), prefixTokens: v.optional(integer(0)) })

/**
 * How many pages of each component a decode rank provides for a prompt (`KVReceiver.reserve`): those of the tokens that it
 * needs, which are fewer with a prefix and with a sliding window; and one slot of each component that is addressed by
 * request.
 *
 * @param cache as the manager was opened with
 * @throws KvxError `ERR_KVX_INVALID_ARGUMENT`
 */
export function neededPages(
  cache: { shape: CacheShape; place: Place; rank?: Partial<Rank> },
  prompt: { tokens: number; prefixTokens?: number },
): Record<string, number> {
  const argument = { code: 'ERR_KVX_INVALID_ARGUMENT', phase: 'reserve' } as const
  checked(cacheSchema, cache, { ...argument, name: 'cache' })
  checked(promptSchema, prompt, { ...argument, name: 'prompt' })
  const { shape, place } = cache
  const { tokens, prefixTokens = 0 } = prompt
  if (prefixTokens > tokens) {
    throw new KvxError(
      argument.code,
      `prompt.prefixTokens must be at most ${String(tokens)}, the tokens of the prompt, got ${String(prefixTokens)}.`,
      { phase: argument.phase },
    )
  }
  const rank = makeRank(shape.layers, cache.rank)
  const block = prefixBlock(shape, rank, place)
  const prefix = prefixTokens === tokens ? tokens : Math.floor(prefixTokens / block) * block
  const needed: Record<string, number> = {}
  for (const component of shape.components) {
    const { name, addressed } = component
    const pages = Object.hasOwn(place.components, name) ? place.components[name] : undefined
    if (!pages) continue
    if (addressed === 'request') {
      needed[name] = 1
      continue
    }
    const [first, end] = providedPages(component, rank, pages, { tokens, prefix })
    needed[name] = end - first
  }
  return needed
}
