/** The promises, as fast-check tries them. */
import * as fc from 'fast-check'
import { bytesCase, describeCase, type BytesCase } from './case.ts'
import { judgeDigests } from '../digests/judge.ts'
import { judge } from './judge.ts'

/** What a run came to; `path` and `seed` replay the smallest counterexample. */
export interface Outcome {
  readonly cases: number
  readonly failure?: { readonly seed: number; readonly path: string; readonly text: string }
}

/** What is promised: that the right bytes go to the right places, or that digests tell whether they are there. */
export const promises = { bytes: judge, digests: judgeDigests } as const

/** @param path replays one counterexample */
export function tryPromise(options: {
  promise: keyof typeof promises
  cases: number
  seed: number
  path?: string | undefined
  onCase?: () => void
}): Outcome {
  const { promise, cases, seed, path, onCase } = options
  const property = fc.property(bytesCase, (given) => {
    onCase?.()
    const wrong = promises[promise](given)
    if (wrong.length > 0) throw new Error(wrong.slice(0, 5).join('\n'))
  })
  const details = fc.check(property, { numRuns: cases, seed, ...(path !== undefined && { path }) })
  if (!details.failed) return { cases: details.numRuns }
  const [found] = details.counterexample ?? []
  const why = details.errorInstance instanceof Error ? details.errorInstance.message : 'no reason'
  return {
    cases: details.numRuns,
    failure: {
      seed: details.seed,
      path: details.counterexamplePath ?? '',
      text: found ? report(found, why) : why,
    },
  }
}

function report(given: BytesCase, why: string): string {
  return `${describeCase(given)}\n${why}\n${JSON.stringify(given)}`
}
