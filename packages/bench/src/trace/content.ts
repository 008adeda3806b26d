/** The bytes of a prompt in blocks: equal blocks have equal bytes, whichever request brings them. */
import { describeMismatch, fill, verify } from '../bytes.ts'
import type { RequestCache } from '../rows.ts'
import type { Job } from '../synthetic/options.ts'
import { blockTokens } from './read.ts'

type BlockJob = Pick<Job, 'tokens' | 'blocks'>

/** Each block with its first token and its end. */
function* stretches({
  tokens,
  blocks = [],
}: BlockJob): Generator<[id: number, first: number, end: number]> {
  for (const [i, id] of blocks.entries()) {
    yield [id, i * blockTokens, Math.min(tokens, (i + 1) * blockTokens)]
  }
}

export function fillBlocks(
  cache: RequestCache,
  job: BlockJob,
  [from, to]: readonly [number, number],
): void {
  for (const [id, first, end] of stretches(job)) {
    if (end <= from || first >= to) continue
    const part = { tokens: [Math.max(first, from), Math.min(end, to)] as const }
    fill(cache, { seed: id, tokens: job.tokens }, part)
  }
}

/** @returns how many bytes were looked at, and the first wrong one in words */
export function verifyBlocks(
  cache: RequestCache,
  job: BlockJob,
): { bytes: number; mismatch?: string } {
  let bytes = 0
  for (const [id, first, end] of stretches(job)) {
    const looked = verify(cache, { seed: id, tokens: end }, { prefix: first })
    bytes += looked.bytes
    if (looked.mismatch) {
      return { bytes, mismatch: `block ${String(id)}: ${describeMismatch(looked.mismatch)}` }
    }
  }
  return { bytes }
}
