/** How fast a trace can be replayed before requests are refused. */
import type { TracePass } from './run.ts'

/** Between one speed that is tried and the next. */
const factor = 1.5
/** More are not tried. */
const most = 12

/**
 * Goes up until a pass does not keep up, or down until one does.
 *
 * @param first that is tried
 * @returns all passes, in order; the last one that kept up is the fastest
 */
export async function findFastest(
  first: number,
  pass: (speed: number) => Promise<TracePass>,
  isEnded: () => boolean,
): Promise<{ passes: TracePass[]; fastest: TracePass | undefined }> {
  const passes: TracePass[] = []
  let fastest: TracePass | undefined
  let speed = first
  while (passes.length < most && !isEnded()) {
    const made = await pass(speed)
    passes.push(made)
    const isGood = keepsUp(made)
    if (isGood && speed > (fastest?.speed ?? 0)) fastest = made
    const wasGood = passes.length > 1 && keepsUp(passes.at(-2)!)
    // The one before was on the other side: the border lies between.
    if (passes.length > 1 && isGood !== wasGood) break
    speed = rounded(isGood ? speed * factor : speed / factor)
  }
  return { passes, fastest }
}

/** Nothing was refused, and nothing failed. */
export const keepsUp = ({ requests, arrived }: TracePass): boolean =>
  requests.length === arrived && requests.every(({ outcome }) => outcome === 'ok')

/** Two digits tell a speed well enough, and can be typed again. */
export const rounded = (speed: number): number => Number(speed.toPrecision(2))
