/** Whether what a prefill rank says it has sent is what it was asked for: success only then. */
import type { KvxError } from '@kvx/contract'
import type { MessageOf } from '../messages.ts'
import { about } from './send.ts'
import type { Moved, Prompt } from '../../plan/index.ts'
import type { DecodeSelf, Leg, Request } from './state.ts'

export function manifestObjection(
  self: DecodeSelf,
  leg: Leg,
  message: MessageOf<'complete'>,
): KvxError | undefined {
  const { request, link } = leg
  const { parts, digests } = message.manifest
  const { pages } = request.destination ?? {}
  const { pairing } = link
  const say = (text: string) =>
    about(
      link,
      'ERR_KVX_MANIFEST_MISMATCH',
      'complete',
      `completed room ${request.key}, but ${text}`,
    )
  if (!pages || !pairing) return say('was never given pages.')
  if (leg.loads.size > 0) return say('a part of it is still in staging memory.')
  const expected = expectedOf(leg)
  for (const name of new Set([...expected.keys(), ...Object.keys(parts)])) {
    const { units, bytes } = expected.get(name) ?? nothing
    const told = (Object.hasOwn(parts, name) ? parts[name] : undefined) ?? nothing
    if (told.units !== units) {
      return say(
        `of component '${name}' ${String(told.units)} tokens times layers have landed instead of ${String(units)}.`,
      )
    }
    if (told.bytes !== bytes) {
      return say(
        `of component '${name}' ${String(told.bytes)} bytes have landed instead of ${String(bytes)}.`,
      )
    }
  }
  for (const [name, layers] of pairing.layers) {
    const bytes = digests && Object.hasOwn(digests, name) ? digests[name]?.byteLength : undefined
    if ((bytes ?? 0) !== (self.verify ? 16 * layers.length : 0)) {
      return say('not with the digests that were asked for.')
    }
  }
  return undefined
}

const nothing: Moved = { units: 0, bytes: 0 }

/** Of each component what the prefill rank of a leg has to send. */
export function expectedOf({ request, link: { pairing } }: Leg): Map<string, Moved> {
  const prompt = promptOf(request)
  return new Map(
    [...(pairing?.layers.keys() ?? [])].map((name) => {
      const slots = request.destination?.pages?.[name]?.length ?? 0
      return [name, pairing?.expected(name, { prompt, slots }) ?? nothing]
    }),
  )
}

export function promptOf({ tokens, destination }: Request): Prompt {
  return { tokens, prefix: destination?.prefixTokens ?? 0 }
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
