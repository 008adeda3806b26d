/** Messages in a few words, for traces. */
import type { Message } from '@kvx/core/protocol'

/** A message in a few words. */
export function describe(message: Message): string {
  const of = 'ep' in message && message.ep !== undefined ? ` ${message.ep}` : ''
  switch (message.k) {
    case 'accept':
      return `accept(${message.state})${of}`
    case 'refuse':
    case 'failed':
    case 'abort':
      return `${message.k}(${message.code.replace('ERR_KVX_', '')})${of}`
    case 'progress':
      return `progress(${message.units})${of}`
    case 'status':
      return `status(${message.state}${message.outcome ? `, ${message.outcome.k}` : ''})${of}`
    case 'stage':
    case 'bay':
    case 'staged':
    case 'scattered':
      return `${message.k}(${message.load}${'offset' in message ? ` at ${message.offset}` : ''})${of}`
    case 'queued':
      return `queued(rooms ${message.rooms.map(([room]) => room).join(', ')})`
    case 'reserve':
      return `reserve(room ${message.room}${message.pages ? '' : ', pages later'})${of}`
    default:
      return `${message.k}${of}`
  }
}

/** Too many to show. */
export function isPing({ k }: Message): boolean {
  return k === 'ping' || k === 'pong'
}
