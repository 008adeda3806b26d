import { parseMessage, type Message } from '@kvx/core/protocol'
import type { Shape } from '../shape/shape.ts'

/** A message as its receiver gets it: in some schedules checked against its schema, as a frame would be. */
export function asReceived(message: Message, { checked }: Shape): Message {
  return checked ? parseMessage(structuredClone(message)) : message
}
