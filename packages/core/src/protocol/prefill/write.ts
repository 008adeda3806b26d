/** What the host writes: pages of the prompt, some or all layers of them, to every decode rank that lacks them. */
import { KvxError } from '@kvx/contract'
import { cover } from './coverage.ts'
import { enqueue, pump } from './piece.ts'
import type { PrefillEvent, PrefillStep, Sender } from './state.ts'
import { askForPages } from './transfer.ts'

export function onWrite(step: PrefillStep, event: PrefillEvent & { type: 'host.write' }): void {
  const sender = step.state.senders.get(event.sender)
  if (!sender) return
  const layers = event.layers ?? [0, step.state.self.layout.layers]
  const wrong = writeObjection(step, sender, event.start, event.pages, layers)
  if (wrong) {
    step.out.push({ do: 'sender.rejected', sender: sender.id, error: wrong })
    return
  }
  let pieces = 0
  for (const target of sender.targets) {
    const from = Math.max(event.start, target.prefixPages)
    const sourcePages = event.pages.subarray(from - event.start)
    const shared = target.peer.kvLayers.filter((l) => l >= layers[0] && l < layers[1]).length
    if (sourcePages.length === 0 || shared === 0) continue
    pieces++
    const bytes = sourcePages.length * target.peer.planner.bytesPerPage('kv', layers)
    enqueue(step, {
      transfer: target,
      sender,
      write: event.write,
      bytes,
      parts: [
        {
          component: 'kv',
          layers,
          sourcePages,
          first: from - target.prefixPages,
          units: sourcePages.length * shared,
          bytes,
        },
      ],
    })
    askForPages(step, target)
  }
  if (pieces === 0) {
    step.out.push({ do: 'sender.posted', sender: sender.id, write: event.write })
    return
  }
  sender.chunks++
  sender.queued = false
  sender.writes.set(event.write, pieces)
  for (const target of sender.targets) pump(step, target.peer)
}

/** Marks the pages as written when there is no objection. */
function writeObjection(
  step: PrefillStep,
  sender: Sender,
  start: number,
  pages: Int32Array,
  layers: readonly [number, number],
): KvxError | undefined {
  const { layout } = step.state.self
  if (sender.error) return sender.error
  if (sender.phase !== 'paired') {
    return new KvxError(
      'ERR_KVX_INVALID_STATE',
      `write() of room ${sender.key} while it is ${sender.phase}: await reserved() first, and call it before finish().`,
    )
  }
  const invalid = (text: string) =>
    new KvxError('ERR_KVX_INVALID_ARGUMENT', `write() of room ${sender.key}: ${text}`)
  if (!Number.isSafeInteger(start) || start < 0 || start + pages.length > sender.pages) {
    return invalid(
      `pages ${String(start)} to ${String(start + pages.length)} are not within the ${String(sender.pages)} pages of the prompt.`,
    )
  }
  if (!(
    Number.isSafeInteger(layers[0]) &&
    Number.isSafeInteger(layers[1]) &&
    layers[0] >= 0 &&
    layers[0] < layers[1] &&
    layers[1] <= layout.layers
  )) {
    return invalid(
      `layers ${String(layers[0])} to ${String(layers[1])} are not within the model's ${String(layout.layers)} layers.`,
    )
  }
  if (pages.some((page) => page < 0 || page >= (layout.pages.kv ?? 0))) {
    return invalid(`a page index is outside of this side's ${String(layout.pages.kv ?? 0)} pages.`)
  }
  const text = cover(sender.coverage, { start, pages, layers }, sender.prefixPages)
  return text === undefined ? undefined : invalid(text)
}
