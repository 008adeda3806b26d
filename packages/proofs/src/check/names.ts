/**
 * Names are handed out again once nobody bears or mentions them any more: in the world they are 128 random bits, so one
 * that nobody remembers is as good as one that never was. Worlds that differ in such names only are the same world.
 */
import { namesIn } from './locals.ts'
import type { Turn } from './turn.ts'
import { mentioned } from './hear.ts'

export function freshName(turn: Turn, prefix: string): string {
  const { ground, net } = turn
  const messages = [
    ...net.wires.flatMap(({ up, down, last }) => [...up, ...down, last.up, last.down]),
    ...net.again.up,
    ...net.again.down,
  ]
  const taken = new Set([
    ...ground.prefills.names(turn.prefill),
    ...ground.decodes.names(turn.decode),
    ...namesIn(JSON.stringify([turn.engines, turn.books, turn.cast, net.watch])),
    ...net.wires.flatMap(({ id, prefill, decode }) => [id, prefill, decode]),
    ...messages.flatMap((message) => (message ? [...mentioned(message)] : [])),
  ])
  // A generation bears the name of its process.
  const all = new Set([...taken].flatMap((name) => [name, name.replace(/[ew]\d+$/, '')]))
  for (let number = 1; ; number++)
    if (!all.has(`${prefix}${String(number)}`)) return `${prefix}${String(number)}`
}
