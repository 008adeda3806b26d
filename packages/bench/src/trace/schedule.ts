/** Which instance takes a request. */
import type { RankProcess } from '../synthetic/process.ts'
import type { Gate } from './gate.ts'

export interface Instance {
  readonly rank: RankProcess
  /** prefill: where it publishes itself. */
  readonly from: string
  readonly gate: Gate
  /** Of prompts that it was ever given; some may have been dropped since. */
  readonly blocks: Set<number>
}

/** A longer prefix is no reason for an instance that has this many times as much to do. */
const patience = 2

/** The one that was given the longest prefix of it, unless it is far busier than another; among equals the least busy. */
export function choose<T extends Pick<Instance, 'gate' | 'blocks'>>(
  instances: readonly T[],
  blocks: readonly number[],
): T {
  const least = Math.min(...instances.map(({ gate }) => gate.busy))
  const fit = instances.filter(({ gate }) => gate.busy <= Math.max(1, patience * least))
  const known = ({ blocks: own }: T): number => {
    const end = blocks.findIndex((id) => !own.has(id))
    return end < 0 ? blocks.length : end
  }
  return fit.reduce((best, one) => {
    const [more, busier] = [known(one) - known(best), one.gate.busy - best.gate.busy]
    return more > 0 || (more === 0 && busier < 0) ? one : best
  })
}
