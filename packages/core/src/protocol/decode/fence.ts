/** Fences: how the pages come back that a lost prefill rank may still write to. */
import { undrainedLegs } from './leg.ts'
import { greet } from './link.ts'
import { forgetIfOver } from './loss.ts'
import { drainLeg } from './request.ts'
import type { DecodeStep, Link } from './state.ts'

export function onFenced(step: DecodeStep, writer: string): void {
  const { links } = step.state
  const revoked = [...links.values()].filter((link) => link.fencing && link.writer === writer)
  for (const leg of undrainedLegs(step.state)) {
    // One that has come back is asked again, and fenced again when it is lost again.
    if (leg.link.writer !== writer) continue
    if (leg.link.status !== 'lost' && !leg.link.fencing) continue
    drainLeg(step, leg)
    forgetIfOver(step, leg.link)
  }
  for (const link of revoked) onRevoked(step, link)
}

/** Nothing was freed by it: what waits for the fence goes on waiting, and it is tried again. */
export function onFenceFailed(step: DecodeStep, writer: string): void {
  step.state.unfenced.set(writer, step.now + step.state.self.deadlines.drain)
}

export function watchFences(step: DecodeStep): void {
  for (const [writer, due] of step.state.unfenced) {
    if (step.now < due) continue
    step.state.unfenced.delete(writer)
    const links = [
      ...step.state.links.values(),
      ...undrainedLegs(step.state).map(({ link }) => link),
    ]
    const isAwaited = links.some(
      (link) =>
        link.writer === writer && (link.fencing || (link.status === 'lost' && link.legs.size > 0)),
    )
    if (isAwaited) step.out.push({ do: 'fence', writer })
  }
}

/** What prefill had connected is of no use any more; its next hello says so. */
function onRevoked(step: DecodeStep, link: Link): void {
  const { fences, self } = step.state
  const [oldest] = fences.keys()
  if (oldest !== undefined && fences.size >= self.limits.peers) fences.delete(oldest)
  fences.set(link.incarnation, (fences.get(link.incarnation) ?? 0) + 1)
  link.fencing = false
  if (step.state.links.get(link.endpoint) === link && link.up) greet(step, link)
}
