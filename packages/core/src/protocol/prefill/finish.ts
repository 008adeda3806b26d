/** What the host says when the prompt is computed: the state components go, and after the last byte `complete`. */
import { KvxError } from '@kvx/contract'
import type { PageLists } from '../messages.ts'
import { finishIfLanded } from './complete.ts'
import { pump } from './piece.ts'
import { failSender } from './sender.ts'
import type {
  PiecePart,
  PrefillEvent,
  PrefillSelf,
  PrefillStep,
  Sender,
  Transfer,
} from './state.ts'
import { askForPages } from './transfer.ts'
import { sendParts } from './write.ts'
import { missing, slotsObjection, takeWrite } from './written.ts'

export function onFinish(step: PrefillStep, event: PrefillEvent & { type: 'host.finish' }): void {
  const sender = step.state.senders.get(event.sender)
  if (!sender || sender.error) return
  const taken = checkedFinish(step, sender, event)
  if (taken instanceof KvxError) {
    step.out.push({ do: 'sender.rejected', sender: sender.id, error: taken })
    return
  }
  sender.phase = 'finishing'
  sender.aux = event.aux
  sendParts(step, sender, { write: 0, after: event.after }, taken)
  for (const target of sender.targets) {
    askForPages(step, target)
    pump(step, target.peer)
  }
  finishIfLanded(step, sender)
}

/** Marks the state as written when there is no objection. */
function checkedFinish(
  step: PrefillStep,
  sender: Sender,
  { state, aux }: PrefillEvent & { type: 'host.finish' },
): PiecePart[] | KvxError {
  const { self } = step.state
  if (sender.phase !== 'paired') {
    return new KvxError(
      'ERR_KVX_INVALID_STATE',
      `finish() of room ${sender.key} while it is ${sender.phase}: await reserved() first, and call it once.`,
    )
  }
  const { auxBytes } = self.limits
  if ((aux.blob?.byteLength ?? 0) > auxBytes) {
    return invalidFinish(
      sender,
      `the aux blob of ${String(aux.blob?.byteLength)} bytes is larger than the agreed ${String(auxBytes)}.`,
    )
  }
  const before = new Map(sender.written)
  const all = { ...unwrittenState(self, sender), ...state }
  const taken = takeWrite(self, sender, {
    ...{ tokens: undefined, pages: {}, state: all, layers: undefined },
  })
  const wrong = typeof taken === 'string' ? taken : missing(self, sender)
  if (typeof taken !== 'string' && wrong === undefined) return taken
  // A wrong call changes nothing.
  for (const name of Object.keys(all)) {
    const known = before.get(name)
    if (known) sender.written.set(name, known)
    else sender.written.delete(name)
  }
  return invalidFinish(sender, wrong ?? '')
}

/** State of which the host has named no slot: the request has none, unless decode says otherwise. */
function unwrittenState({ shape, place }: PrefillSelf, { written }: Sender): PageLists {
  const names = shape.components.flatMap(({ name, addressed }) =>
    addressed === 'request' && Object.hasOwn(place.components, name) && !written.has(name)
      ? [name]
      : [],
  )
  return Object.fromEntries(names.map((name) => [name, new Int32Array()]))
}

function invalidFinish(sender: Sender, text: string): KvxError {
  return new KvxError('ERR_KVX_INVALID_ARGUMENT', `finish() of room ${sender.key}: ${text}`, {
    phase: 'complete',
  })
}

/** Decode has named the pages of a transfer: what waited for them goes. */
export function onProvided(step: PrefillStep, transfer: Transfer): void {
  const sender = step.state.rooms.get(transfer.key)?.sender
  if (sender?.targets.includes(transfer)) {
    const wrong = providedObjection(step.state.self, sender)
    if (wrong !== undefined) {
      failSender(step, sender, invalidFinish(sender, wrong))
      return
    }
  }
  pump(step, transfer.peer)
  // When decode holds the whole prompt as prefix, the pages were all that was waited for.
  if (sender) finishIfLanded(step, sender)
}

/** Whether the slots that decode provides are as many as were written. */
function providedObjection({ shape }: PrefillSelf, sender: Sender): string | undefined {
  for (const { name, addressed } of shape.components) {
    const written = addressed === 'request' ? sender.written.get(name) : undefined
    const wrong = written && slotsObjection(sender, name, written.source.length)
    if (wrong !== undefined) return wrong
  }
  return undefined
}
