/** Whether what a prefill rank says it has sent is what it was asked for: success only then. */
import type { KvxError } from '@kvx/contract'
import type { MessageOf } from '../messages.ts'
import { about } from './send.ts'
import type { DecodeSelf, Leg } from './state.ts'

export function manifestObjection(
  self: DecodeSelf,
  leg: Leg,
  message: MessageOf<'complete'>,
): KvxError | undefined {
  const { request, link } = leg
  const { parts, checksums } = message.manifest
  const { destination } = request
  const say = (text: string) =>
    about(
      link,
      'ERR_KVX_MANIFEST_MISMATCH',
      'complete',
      `completed room ${request.key}, but ${text}`,
    )
  if (!destination?.pages || !link.planner) return say('was never given pages.')
  const expected = new Map([['kv', destination.pages.length]])
  for (const [name, pages] of Object.entries(destination.state)) expected.set(name, pages.length)
  for (const name of new Set([...expected.keys(), ...Object.keys(parts)])) {
    // What this rank does not hold comes from another one.
    const shared = link.planner.lanes.components.has(name)
    const pages = shared ? (expected.get(name) ?? 0) : 0
    const bytes = shared ? pages * link.planner.bytesPerPage(name) : 0
    const part = (Object.hasOwn(parts, name) ? parts[name] : undefined) ?? { pages: 0, bytes: 0 }
    if (part.pages !== pages || part.bytes !== bytes) {
      return say(
        `component '${name}' has ${String(part.pages)} pages, ${String(part.bytes)} bytes instead of ${String(pages)} pages, ${String(bytes)} bytes.`,
      )
    }
  }
  const sums = self.verify && link.planner.lanes.components.has('kv') ? destination.pages.length : 0
  if ((checksums?.byteLength ?? 0) !== 4 * sums) {
    return say('not with the checksums that were asked for.')
  }
  return undefined
}

export function auxObjection(
  { request, link }: Leg,
  message: MessageOf<'complete'>,
): KvxError | undefined {
  const bytes = message.aux.blob?.byteLength ?? 0
  if (bytes <= link.auxBytes) return undefined
  const text = `sent ${String(bytes)} bytes of aux for room ${request.key} of which both sides agreed on ${String(link.auxBytes)} at most.`
  return about(link, 'ERR_KVX_AUX_TOO_LARGE', 'complete', text)
}
