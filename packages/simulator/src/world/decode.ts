/** What a decode rank hears, and what its reducer orders: between network, engine and host. */
import { KvxError } from '@kvx/contract'
import type { DecodeEffect, Message } from '@kvx/core/protocol'
import { onFence, onFenced, onRecycle, onRenewed } from '../checks/engines.ts'
import { isForeignAtDecode, mustChangeNothing } from '../checks/identity.ts'
import { onWelcome } from '../checks/messages.ts'
import { digestsOf } from '../engine/digests.ts'
import { describe, isPing } from '../machine/words.ts'
import type { Wire } from '../network/wire.ts'
import type { DecodeRank } from '../ranks/decode.ts'
import { asReceived } from './message.ts'
import type { Parts } from './parts.ts'

export function hearAtDecode(parts: Parts, rank: DecodeRank, wire: Wire, message: Message): void {
  const { context, checks, coverage } = parts
  coverage.count(rank, wire, message)
  if (context.trace && !isPing(message))
    context.log(() => `${wire.prefill.name} → ${rank.name}: ${describe(message)}`)
  const isForeign = isForeignAtDecode(rank, wire, message)
  if (!isForeign) checks.messages.onDecodeHears(rank, message)
  const effects = rank.react({ type: 'message', endpoint: wire.client.endpoint, message })
  if (isForeign) mustChangeNothing(rank.name, message, effects)
  else if (message.k === 'welcome') onWelcome(rank, wire, message.from, effects)
  rank.perform(effects)
}

export function performAtDecode(parts: Parts, rank: DecodeRank, effect: DecodeEffect): void {
  const { bootstraps, engines, hosts, network, staging } = parts
  switch (effect.do) {
    case 'send':
      send(parts, rank, effect.endpoint, effect.message)
      return
    case 'watchSource':
      bootstraps.watch(rank, effect.from)
      return
    case 'unwatchSource':
      bootstraps.unwatch(rank, effect.from)
      return
    case 'askPublished':
      bootstraps.watchOf(rank, effect.from)?.ask(effect)
      return
    case 'unaskPublished':
      bootstraps.watchOf(rank, effect.from)?.unask(effect)
      return
    case 'connect':
      network.connect(rank, effect.endpoint)
      return
    case 'disconnect':
      network.disconnect(rank, effect.endpoint)
      return
    case 'verify':
      verify(parts, rank, effect)
      return
    case 'scatter':
      staging.scatter(rank, effect)
      return
    case 'fence':
      onFence(rank)
      engines.fence(rank, effect.writer)
      return
    case 'recycle':
      onRecycle(rank)
      engines.recycleDecode(rank)
      return
    default:
      hosts.receivers.onNews(rank, effect)
  }
}

/** Its engine has shut a writer out. */
export function hasFenced({ context, cast }: Parts, rank: DecodeRank, writer: string): void {
  const from = cast.writerOf(writer)
  context.log(() => `${rank.name} has fenced ${from?.name ?? writer}`)
  onFenced(rank, from)
  rank.step({ type: 'fenced', writer })
}

/** It has a fresh engine. */
export function hasRenewed({ context }: Parts, rank: DecodeRank): void {
  context.log(() => `${rank.name} has a new engine`)
  onRenewed(rank)
  const { generation } = rank
  rank.current = generation
  rank.step({ type: 'engine.recycled', engine: rank.address() })
}

function send(parts: Parts, rank: DecodeRank, endpoint: string, given: Message): void {
  const message = asReceived(given, parts.context.shape)
  parts.checks.messages.onDecodeSays(rank, message)
  parts.network.sendUp(rank, endpoint, message)
}

function verify(
  { context }: Parts,
  rank: DecodeRank,
  { request, epoch, pairing, digests }: DecodeEffect & { do: 'verify' },
): void {
  rank.later(context.random.between(1, 20), () => {
    const reserve = rank.epochs.get(epoch)
    if (!reserve) return
    const { leg, peer } = reserve
    const arrived = digestsOf(leg, pairing.layers, leg.posted.get(peer) ?? [])
    const isWrong = Object.entries(arrived).some(
      ([name, bytes]) => String(bytes) !== String(digests[name]),
    )
    const error = isWrong
      ? new KvxError('ERR_KVX_CHECKSUM_MISMATCH', 'a layer arrived damaged', { phase: 'complete' })
      : undefined
    rank.step({ type: 'verified', request, epoch, error })
  })
}
