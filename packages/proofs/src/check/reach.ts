/** Which writes may still land, and which still read. */
import type { Write } from './parts.ts'
import type { Turn } from './turn.ts'

export function writerProcess({ writer }: Pick<Write, 'writer'>): string {
  return writer.slice(0, writer.indexOf('w'))
}

/** Its process is the one that prefill has now. */
export function isOurs({ cast: { prefill } }: Turn, write: Pick<Write, 'writer'>): boolean {
  return prefill.isAlive && writerProcess(write) === prefill.incarnation
}

/** The target still lets something of it in. */
export function canLand(turn: Turn, write: Write): boolean {
  const { decode } = turn.cast
  if (!decode.isAlive || write.peer !== decode.incarnation) return false
  if (write.generation !== decode.generation || write.isRevoked) return false
  // What has landed does not land again.
  return write.told !== 'done' && (turn.spec.fence !== 'exit' || isOurs(turn, write))
}

/** Something of an epoch may land. */
export function mayLandOf(turn: Turn, { epoch, peer }: { epoch: number; peer: string }): boolean {
  return turn.engines.writes.some(
    (write) => write.epoch === epoch && writerProcess(write) === peer && canLand(turn, write),
  )
}

/** Something may land in the pages of a request. */
export function mayLandIn(turn: Turn, job: number): boolean {
  return turn.engines.writes.some((write) => write.owner === job && canLand(turn, write))
}

/** The engine still reads the source pages of a request. */
export function mayRead(turn: Turn, job: number): boolean {
  return turn.engines.writes.some(
    (write) => write.reader === job && isOurs(turn, write) && !write.isAbandoned,
  )
}
