/** After the last byte of every decode rank has landed: checksums where wanted, then `complete`. */
import { packPages, protocolVersion } from '../messages.ts'
import type { PrefillEvent, PrefillStep, Sender, Transfer } from './state.ts'
import { isShared } from './transfer.ts'

export function finishIfLanded(step: PrefillStep, sender: Sender): void {
  if (sender.phase !== 'finishing') return
  if (sender.unsettled > 0 || sender.targets.some((t) => !t.pages)) return
  sender.phase = 'completing'
  sender.deadline = step.now + sender.deadlines.linger
  for (const target of sender.targets) {
    if (target.checksums && isShared(target, 'kv')) {
      step.out.push({
        do: 'checksum',
        sender: sender.id,
        peer: target.peer.incarnation,
        epoch: target.epoch,
        planner: target.peer.planner,
        pages: sender.coverage.sources.subarray(target.prefixPages),
      })
    } else {
      complete(step, sender, target, undefined)
    }
  }
}

export function onChecksums(step: PrefillStep, event: PrefillEvent & { type: 'checksums' }): void {
  const sender = step.state.senders.get(event.sender)
  const target = sender?.targets.find(
    (t) => t.epoch === event.epoch && t.peer.incarnation === event.peer,
  )
  if (sender?.phase !== 'completing' || target?.phase !== 'paired') return
  complete(step, sender, target, event.checksums)
}

function complete(
  step: PrefillStep,
  sender: Sender,
  target: Transfer,
  checksums: Uint32Array | undefined,
): void {
  const { self } = step.state
  const parts = Object.fromEntries(
    Object.entries(target.landed).map(([component, { units, bytes }]) => [
      component,
      { pages: component === 'kv' ? units / target.peer.kvLayers.length : units, bytes },
    ]),
  )
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
      parts,
      chunks: sender.chunks,
      ms: target.airtime.ms,
      ...(checksums === undefined
        ? {}
        : {
            checksums: packPages(
              new Int32Array(checksums.buffer, checksums.byteOffset, checksums.length),
            ),
          }),
    },
    aux: sender.last?.aux ?? {},
  }
  step.out.push({ do: 'send', connection: target.peer.connection, message: target.outcome })
}
