/** Which of several workers that could take a request gets it: policies as SGLang's router names them. */
import { randomInt } from 'node:crypto'
import type { Prefixes, Prompt } from './prefixes.ts'

export const policies = ['cache_aware', 'power_of_two', 'round_robin', 'random'] as const
export type Policy = (typeof policies)[number]

/** Of `cache_aware`. */
export interface CacheAwareSettings {
  /** A worker must have seen this part of a prompt, 0 to 1, to be preferred for it. Default 0.3. */
  readonly cacheThreshold: number
  /** The load counts instead when the busiest worker has more than so many requests more than the idlest, */
  readonly balanceAbsThreshold: number
  /** and more than so many times as many. Defaults 8 and 1.5. */
  readonly balanceRelThreshold: number
}

export const cacheAwareDefaults: CacheAwareSettings = {
  cacheThreshold: 0.3,
  balanceAbsThreshold: 8,
  balanceRelThreshold: 1.5,
}

export interface Candidate {
  /** Requests that it works on. */
  readonly live: number
}

/** Chooses for the workers of one role. */
export class Choice {
  readonly #policy: Policy
  readonly #settings: CacheAwareSettings
  readonly #prefixes: Prefixes
  #turn = 0

  constructor(policy: Policy, settings: CacheAwareSettings, prefixes: Prefixes) {
    this.#policy = policy
    this.#settings = settings
    this.#prefixes = prefixes
  }

  /** One of them; undefined when there are none. */
  of<W extends Candidate>(candidates: readonly W[], prompt: Prompt): W | undefined {
    const turn = this.#turn++
    switch (this.#policy) {
      case 'random':
        return candidates[randomIndex(candidates.length)]
      case 'round_robin':
        return candidates[turn % candidates.length]
      case 'power_of_two':
        return idlest(shuffled(candidates, 2), 0)
      case 'cache_aware':
        return this.#familiar(candidates, prompt) ?? idlest(candidates, turn)
    }
  }

  /** The one that has seen the most of the prompt, unless the load is too uneven for that to count. */
  #familiar<W extends Candidate>(candidates: readonly W[], prompt: Prompt): W | undefined {
    if (prompt.blocks.length === 0) return undefined
    const { cacheThreshold, balanceAbsThreshold, balanceRelThreshold } = this.#settings
    const loads = candidates.map(({ live }) => live)
    const [least, most] = [Math.min(...loads), Math.max(...loads)]
    if (most - least > balanceAbsThreshold && most > least * balanceRelThreshold) return undefined
    let best: W | undefined
    let seen = 0
    for (const worker of candidates) {
      const part = this.#prefixes.seen(worker, prompt)
      const better = part > seen || (part === seen && best !== undefined && worker.live < best.live)
      if (part === 0 || part < cacheThreshold || !better) continue
      best = worker
      seen = part
    }
    return best
  }
}

/** The one with the fewest live requests; among equals the one whose turn it is. */
export function idlest<W extends Candidate>(candidates: readonly W[], turn: number): W | undefined {
  let best: W | undefined
  for (let i = 0; i < candidates.length; i++) {
    const worker = candidates[(turn + i) % candidates.length]
    if (worker !== undefined && (best === undefined || worker.live < best.live)) best = worker
  }
  return best
}

const randomIndex = (length: number) => (length > 0 ? randomInt(length) : 0)

/** `count` of them at random, or all. */
function shuffled<W>(items: readonly W[], count: number): W[] {
  const left = [...items]
  return Array.from({ length: Math.min(count, left.length) }, () =>
    left.splice(randomIndex(left.length), 1),
  ).flat()
}
