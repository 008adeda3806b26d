/** What a prefill rank hears, and what its reducer orders: between network, engine and host. */
import { roomKey, type Message, type PrefillEffect } from '@kvx/core/protocol'
import { spoil } from '../books/legs.ts'
import { onRecycle } from '../checks/engines.ts'
import { mustChangeNothing } from '../checks/identity.ts'
import { digestsOf } from '../engine/digests.ts'
import { describe, isPing } from '../machine/words.ts'
import type { Wire } from '../network/wire.ts'
import type { PrefillRank } from '../ranks/prefill.ts'
import { fault } from '../shape/faults.ts'
import { asReceived } from './message.ts'
import type { Parts } from './parts.ts'

export function hearAtPrefill(parts: Parts, rank: PrefillRank, wire: Wire, message: Message): void {
  const { context, checks, coverage } = parts
  coverage.count(rank, wire, message)
  if (context.trace && !isPing(message))
    context.log(() => `${wire.decode.name} → ${rank.name}: ${describe(message)}`)
  const isForeign = checks.identity.isForeignAtPrefill(rank, message)
  const effects = rank.react({ type: 'message', connection: wire.id, message })
  if (isForeign) mustChangeNothing(rank.name, message, effects)
  else if (message.k === 'queued') checks.deadlines.onQueued(rank, message)
  rank.perform(effects)
}

export function performAtPrefill(parts: Parts, rank: PrefillRank, effect: PrefillEffect): void {
  const { bootstraps, engines, hosts, links, staging, writes } = parts
  switch (effect.do) {
    case 'send':
      send(parts, rank, effect.connection, effect.message)
      return
    case 'publish':
    case 'withdraw': {
      const { room, index } = effect
      const key = roomKey(room, index)
      if (effect.do === 'publish') rank.published.set(key, { room, index })
      else rank.published.delete(key)
      bootstraps.of(rank.slot.instance).announce(rank)
      return
    }
    case 'openLink':
      links.open(rank, effect)
      return
    case 'closeLink':
      links.close(rank, effect.peer, effect.generation)
      return
    case 'post':
      writes.post(rank, links.openTo(rank, effect.peer, effect.generation), effect)
      return
    case 'gather':
      staging.gather(rank, effect)
      return
    case 'cancel':
      writes.cancel(rank, effect.piece)
      return
    case 'recycle':
      onRecycle(rank)
      engines.recyclePrefill(rank)
      return
    case 'digest':
      digest(parts, rank, effect)
      return
    default:
      hosts.senders.onNews(rank, effect)
  }
}

function send(parts: Parts, rank: PrefillRank, connection: string, given: Message): void {
  const { context, checks, network } = parts
  const message = falsified(parts, rank, asReceived(given, context.shape))
  checks.messages.onPrefillSays(rank, message)
  network.sendDown(rank, connection, message)
}

/** A defective prefill counts wrong. */
function falsified({ context, cast, checks }: Parts, rank: PrefillRank, message: Message): Message {
  const { armed } = rank.slot
  if (message.k !== 'complete' || armed.wrongManifests === 0) return message
  const [moved] = Object.entries(message.manifest.parts)
  const reserve = cast.decodeOf(message.to)?.epochs.get(message.ep)
  if (!moved || !reserve) return message
  armed.wrongManifests--
  rank.slot.mask |= fault.engine
  spoil(reserve.leg.job)
  const [name, { units, bytes }] = moved
  // Now of tokens, now of bytes.
  const more = message.ep % 2 === 0 ? { units, bytes: bytes + 1 } : { units: units + 1, bytes }
  const parts = { ...message.manifest.parts, [name]: more }
  const wrong = { ...message, manifest: { ...message.manifest, parts } }
  checks.messages.wrongManifests.add(wrong)
  context.log(() => `${rank.name} counts wrong`)
  return wrong
}

function digest(
  { context, cast }: Parts,
  rank: PrefillRank,
  { sender, peer, epoch, pairing }: PrefillEffect & { do: 'digest' },
): void {
  const { layers } = pairing
  rank.later(context.random.between(1, 20), () => {
    const receiver = cast.decodeOf(peer)?.epochs.get(epoch)?.leg
    const leg = rank.legs.get(sender)
    // Nobody waits for the digests of what has ended.
    if (!receiver || !leg) return
    const digests = digestsOf(leg, layers, receiver.posted.get(rank.incarnation) ?? [])
    rank.step({ type: 'digests', sender, peer, epoch, digests })
  })
}
