/** What is done with what a reducer orders. */
import type { DecodeEffect, PrefillEffect } from '@kvx/core/protocol'
import { cancel, closeLink, fence, openLink, post, recycle } from './engines.ts'
import { onDecodeSays, onPrefillSays } from './hear.ts'
import { onReceiverNews, onSenderNews } from './hosts.ts'
import { hangUp, sendDown, sendUp } from './network.ts'
import type { Turn } from './turn.ts'
import { violate } from './violation.ts'

export function performPrefill(turn: Turn, effect: PrefillEffect): void {
  switch (effect.do) {
    case 'send':
      onPrefillSays(turn, effect.message)
      sendDown(turn, effect.connection, effect.message)
      return
    case 'openLink':
      openLink(turn, effect)
      return
    case 'closeLink':
      closeLink(turn, effect)
      return
    case 'post':
      post(turn, effect)
      return
    case 'cancel':
      cancel(turn, effect.piece)
      return
    case 'recycle':
      recycle(turn, 'prefill')
      return
    case 'digest': {
      const { sender, epoch, peer } = effect
      turn.setEngines({ digesting: [...turn.engines.digesting, { sender, epoch, peer }] })
      return
    }
    case 'gather':
    case 'publish':
    case 'withdraw':
      violate('unknown order', `a world so small has no ${effect.do}`)
      return
    default:
      onSenderNews(turn, effect)
  }
}

export function performDecode(turn: Turn, effect: DecodeEffect): void {
  switch (effect.do) {
    case 'send':
      onDecodeSays(turn, effect.message)
      sendUp(turn, effect.message)
      return
    case 'watchSource':
      turn.setNet({ watch: { answer: undefined, told: undefined } })
      return
    case 'unwatchSource':
      turn.setNet({ watch: undefined })
      return
    case 'connect':
      hangUp(turn)
      turn.setNet({ isWanted: true })
      return
    case 'disconnect':
      hangUp(turn)
      return
    case 'fence':
      fence(turn, effect)
      return
    case 'recycle':
      recycle(turn, 'decode')
      return
    case 'verify':
      turn.setEngines({
        comparing: [...turn.engines.comparing, { request: effect.request, epoch: effect.epoch }],
      })
      return
    case 'scatter':
    case 'askPublished':
    case 'unaskPublished':
      violate('unknown order', `a world so small has no ${effect.do}`)
      return
    default:
      onReceiverNews(turn, effect)
  }
}
