/** After the last byte of every decode rank has landed: digests where wanted, then `complete`. */
import { protocolVersion } from '../messages.ts'
import type { PrefillEvent, PrefillStep, Sender, Transfer } from './state.ts'

export function finishIfLanded(step: PrefillStep, sender: Sender): void {
  if (sender.phase !== 'finishing') return
  if (sender.unsettled > 0 || sender.targets.some((t) => !t.pages)) return
  sender.phase = 'completing'
  sender.deadline = step.now + sender.deadlines.linger
  for (const target of sender.targets) {
    if (target.digests) {
      step.out.push({
        do: 'digest',
        sender: sender.id,
        peer: target.peer.incarnation,
        epoch: target.epoch,
        pairing: target.peer.pairing,
        prompt: target.prompt,
        source: Object.fromEntries([...sender.written].map(([name, { source }]) => [name, source])),
      })
    } else {
      complete(step, sender, target, undefined)
    }
  }
}

export function onDigests(step: PrefillStep, event: PrefillEvent & { type: 'digests' }): void {
  const sender = step.state.senders.get(event.sender)
  const target = sender?.targets.find(
    (t) => t.epoch === event.epoch && t.peer.incarnation === event.peer,
  )
  if (sender?.phase !== 'completing' || target?.phase !== 'paired') return
  complete(step, sender, target, event.digests)
}

function complete(
  step: PrefillStep,
  sender: Sender,
  target: Transfer,
  digests: Readonly<Record<string, Uint8Array>> | undefined,
): void {
  const { self } = step.state
  target.phase = 'complete'
  target.deadline = step.now + sender.deadlines.linger
  target.outcome = {
    v: protocolVersion,
    k: 'complete',
    from: self.incarnation,
    to: target.peer.incarnation,
    gen: target.generation,
    ep: target.epoch,
    manifest: {
      parts: target.landed,
      chunks: sender.chunks,
      ms: target.airtime.ms,
      ...(digests && { digests }),
    },
    aux: sender.aux ?? {},
  }
  step.out.push({ do: 'send', connection: target.peer.connection, message: target.outcome })
}
