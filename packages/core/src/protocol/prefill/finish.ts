/** What the host says when the prompt is computed: the state components go, and after the last byte `complete`. */
import { KvxError } from '@kvx/contract'
import { pageCount } from '../../layout/index.ts'
import { finishIfLanded } from './complete.ts'
import { firstMissing } from './coverage.ts'
import { enqueue, pump } from './piece.ts'
import { failSender } from './sender.ts'
import type { PrefillEvent, PrefillStep, Sender, Transfer } from './state.ts'
import { askForPages, isShared } from './transfer.ts'

export function onFinish(step: PrefillStep, event: PrefillEvent & { type: 'host.finish' }): void {
  const sender = step.state.senders.get(event.sender)
  if (!sender || sender.error) return
  const wrong = finishObjection(step, sender, event)
  if (wrong) {
    step.out.push({ do: 'sender.rejected', sender: sender.id, error: wrong })
    return
  }
  sender.phase = 'finishing'
  sender.last = { state: event.state, aux: event.aux }
  for (const target of sender.targets) {
    const components = Object.keys(event.state).filter((name) => isShared(target, name))
    if (components.length > 0) {
      const parts = components.map((component) => {
        const sourcePages = event.state[component] ?? new Int32Array()
        const units = sourcePages.length
        const bytes = units * target.peer.planner.bytesPerPage(component)
        return { component, layers: undefined, sourcePages, first: 0, units, bytes }
      })
      enqueue(step, {
        transfer: target,
        sender,
        write: 0,
        bytes: parts.reduce((sum, { bytes }) => sum + bytes, 0),
        parts,
      })
    }
    askForPages(step, target)
    pump(step, target.peer)
  }
  finishIfLanded(step, sender)
}

function finishObjection(
  step: PrefillStep,
  sender: Sender,
  event: PrefillEvent & { type: 'host.finish' },
): KvxError | undefined {
  const invalid = (text: string) => invalidFinish(sender, text)
  if (sender.phase !== 'paired') {
    return new KvxError(
      'ERR_KVX_INVALID_STATE',
      `finish() of room ${sender.key} while it is ${sender.phase}: await reserved() first, and call it once.`,
    )
  }
  const missing = firstMissing(sender.coverage, sender.prefixPages)
  if (missing)
    return invalid(
      `page ${String(missing.page)} of layer ${String(missing.layer)} was never written.`,
    )
  const { auxBytes } = step.state.self.limits
  if ((event.aux.blob?.byteLength ?? 0) > auxBytes) {
    return invalid(
      `the aux blob of ${String(event.aux.blob?.byteLength)} bytes is larger than the agreed ${String(auxBytes)}.`,
    )
  }
  for (const [name, pages] of Object.entries(event.state)) {
    if (name === 'kv' || !sender.targets.some((target) => isShared(target, name)))
      return invalid(`there is no state component '${name}' that both sides hold.`)
    const held = pageCount(step.state.self.layout, name)
    if (pages.some((page) => page < 0 || page >= held)) {
      return invalid(
        `a page of state component '${name}' is outside of this side's ${String(held)} pages.`,
      )
    }
  }
  for (const target of sender.targets) {
    const wrong = target.pages && stateObjection(target, event.state)
    if (wrong) return invalid(wrong)
  }
  return undefined
}

/** Whether decode reserved what is given, once its pages are known. */
function stateObjection(
  target: Transfer,
  state: Readonly<Record<string, Int32Array>>,
): string | undefined {
  for (const name of new Set([...Object.keys(state), ...Object.keys(target.state)])) {
    if (!isShared(target, name)) continue
    const given = state[name]?.length ?? 0
    const wanted = target.state[name]?.length ?? 0
    if (given !== wanted)
      return `${String(given)} pages of state component '${name}' are given, and decode reserved ${String(wanted)}.`
  }
  return undefined
}

function invalidFinish(sender: Sender, text: string): KvxError {
  return new KvxError('ERR_KVX_INVALID_ARGUMENT', `finish() of room ${sender.key}: ${text}`, {
    phase: 'complete',
  })
}

/** Decode has named the pages of a transfer: what waited for them goes. */
export function onProvided(step: PrefillStep, transfer: Transfer): void {
  const sender = step.state.rooms.get(transfer.key)?.sender
  if (sender?.last && sender.targets.includes(transfer)) {
    const wrong = stateObjection(transfer, sender.last.state)
    if (wrong) {
      failSender(step, sender, invalidFinish(sender, wrong))
      return
    }
  }
  pump(step, transfer.peer)
  // When decode holds the whole prompt as prefix, the pages were all that was waited for.
  if (sender) finishIfLanded(step, sender)
}
