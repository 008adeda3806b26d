/** What an engine has to read for the digests of what one prefill rank has sent to one decode rank for a request. */
import type { DigestJob } from '@kvx/contract'
import { position, type Held } from '../../share/tokens.ts'
import { existing, invalid, type Pairing } from '../pairing.ts'
import type { Prompt } from '../span.ts'
import type { PairSide } from './tensors.ts'

/** One component of a request, at one of the two ranks. */
export interface DigestPart {
  readonly component: string
  readonly side: PairSide
  readonly prompt: Prompt
  /** The pages that `Pairing.pages` names for this side, in the order of the prompt; or the slots of the request. */
  readonly pages: Int32Array
}

/** Runs of tokens as in `DigestJob.runs`. */
type Runs = number[]

/**
 * All units that were elected for the two ranks, of the tokens that both hold and decode needs. The jobs of both sides have
 * the same tensors in the same order, and equal digests when what has arrived is what was sent. It is for the end of a
 * request, when everything has been written.
 *
 * @returns with the layer of each tensor, ascending: see `layerDigests`
 * @throws KvxError `ERR_KVX_PLAN_INVALID` for a component of which the ranks share nothing, pages that do not exist, or
 *   too few of them
 */
export function digestJob(
  pairing: Pairing,
  { component, side, prompt, pages }: DigestPart,
): { job: DigestJob; layers: Int32Array } {
  const paired = pairing.component(component)
  const { layers, ...tensors } = pairing.digestTensors(component, side)
  const runs: Runs = []
  if (paired.table) {
    const { shared, ...spans } = pairing.spans(paired, prompt)
    const [own, other] =
      side === 'source'
        ? [spans.sourceHeld, spans.destinationHeld]
        : [spans.destinationHeld, spans.sourceHeld]
    const [firstPage] = spans[side]
    for (let token = shared[0]; token < shared[1];) {
      const step = Math.min(stretch(own, token), stretch(other, token), shared[1] - token)
      if (step <= 0) {
        token -= step
        continue
      }
      const at = position(own, token)
      const [page, first] = [Math.floor(at / tensors.pageTokens), at % tensors.pageTokens]
      const found = pages[page - firstPage]
      if (found === undefined) {
        throw invalid(
          `The ${side} has ${String(pages.length)} pages of '${component}', and the one at position ${String(page - firstPage)} is missing.`,
        )
      }
      const tokens = Math.min(step, tensors.pageTokens - first)
      addRun(
        runs,
        { page: existing(side, paired, found), first, tokens, token },
        tensors.pageTokens,
      )
      token += tokens
    }
  } else {
    for (const [token, slot] of pages.entries()) {
      addRun(runs, { page: existing(side, paired, slot), first: 0, tokens: 1, token }, 1)
    }
  }
  return { job: { ...tensors, runs: new Int32Array(runs) }, layers }
}

/** How many tokens from this one on a rank holds one after another; negative: after how many it holds some again. */
function stretch({ at, of, stretch, first }: Held, token: number): number {
  if (of === 1) return Infinity
  const t = token - first
  const left = stretch - (t % stretch)
  const others = (at - (Math.floor(t / stretch) % of) + of) % of
  return others === 0 ? left : -(left + (others - 1) * stretch)
}

/** Adds a run, to the last one where it continues that. */
function addRun(
  runs: Runs,
  { page, first, tokens, token }: { page: number; first: number; tokens: number; token: number },
  pageTokens: number,
): void {
  const last = runs.length - 4
  if (last >= 0) {
    const end = runs[last]! * pageTokens + runs[last + 1]! + runs[last + 2]!
    const next = runs[last + 3]! + runs[last + 2]!
    if (end === page * pageTokens + first && next === token) {
      runs[last + 2]! += tokens
      return
    }
  }
  runs.push(page, first, tokens, token)
}
