/** What the host writes: pages of the prompt and slots, of some or all layers, to every decode rank that lacks them. */
import { KvxError, type DeviceWork } from '@kvx/contract'
import { enqueue, pump } from './piece.ts'
import type { PiecePart, PrefillEvent, PrefillStep, Sender } from './state.ts'
import { askForPages } from './transfer.ts'
import { takeWrite, type Given } from './written.ts'

export function onWrite(step: PrefillStep, event: PrefillEvent & { type: 'host.write' }): void {
  const sender = step.state.senders.get(event.sender)
  if (!sender) return
  const taken = checkedWrite(step, sender, event)
  if (taken instanceof KvxError) {
    step.out.push({ do: 'sender.rejected', sender: sender.id, error: taken })
    return
  }
  const pieces = sendParts(step, sender, event, taken)
  if (pieces === 0) {
    step.out.push({ do: 'sender.posted', sender: sender.id, write: event.write })
    return
  }
  sender.chunks++
  sender.queued = false
  sender.writes.set(event.write, pieces)
  for (const target of sender.targets) pump(step, target.peer)
}

/** Queues what each decode rank lacks of these parts. Answers how many pieces that makes. */
export function sendParts(
  step: PrefillStep,
  sender: Sender,
  { write, after }: { write: number; after?: DeviceWork | undefined },
  parts: readonly PiecePart[],
): number {
  let pieces = 0
  for (const target of sender.targets) {
    const { pairing } = target.peer
    const wanted = parts.filter(
      ({ component, layers, first = 0, source }) =>
        pairing.layers.has(component) &&
        pairing.units({ component, layers, prompt: target.prompt, first, count: source.length }) >
          0,
    )
    if (wanted.length === 0) continue
    pieces++
    enqueue(step, { transfer: target, sender, write, parts: wanted, after })
    askForPages(step, target)
  }
  return pieces
}

/** Marks what is written when there is no objection, and answers the pages that it completes. */
function checkedWrite(step: PrefillStep, sender: Sender, event: Given): PiecePart[] | KvxError {
  if (sender.error) return sender.error
  if (sender.phase !== 'paired') {
    return new KvxError(
      'ERR_KVX_INVALID_STATE',
      `write() of room ${sender.key} while it is ${sender.phase}: await reserved() first, and call it before finish().`,
    )
  }
  const taken = takeWrite(step.state.self, sender, event)
  if (typeof taken !== 'string') return taken
  return new KvxError('ERR_KVX_INVALID_ARGUMENT', `write() of room ${sender.key}: ${taken}`)
}
