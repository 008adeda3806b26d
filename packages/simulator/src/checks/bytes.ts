/** Invariant 2: a request that succeeds has every byte. */
import type { ReceiveLeg } from '../books/legs.ts'
import { violate } from '../machine/violation.ts'
import type { Slot } from '../machine/process.ts'
import { eachByte } from '../shape/content.ts'
import { heldTokens, type RankMemory } from '../shape/memory.ts'

/** One prefill rank, and all of its instance. */
interface Teller {
  readonly by: Slot
  readonly of: readonly Slot[]
}

/**
 * All bytes of the pages of a leg, where they lie in the undivided cache, or those alone that nobody but one prefill rank
 * could have sent.
 */
export function checkBytes(leg: ReceiveLeg, check: string, teller?: Teller): void {
  const { host, job } = leg
  const { memory, slot } = host
  for (const [name, pages] of leg.pages) {
    const isOwed = teller ? onlyAt(teller, name, job.tokens) : () => true
    eachByte(slot.memory, pages, (at, byte, row, page) => {
      if (memory[at] === byte || !isOwed(slot.memory.cellAt[at]!, row)) return
      violate(
        check,
        `room ${job.room} of ${host.name}: page ${page} of ${name} lacks a byte of row ${row}`,
      )
    })
  }
}

/** Whether a cell of a row is held by a prefill rank, and by no other of its instance. */
function onlyAt({ by, of }: Teller, component: string, tokens: number) {
  const others = of.filter((slot) => slot !== by && slot.rank.dp === by.rank.dp)
  const mine = holdings(by.memory, component, tokens)
  const theirs = others.map((slot) => holdings(slot.memory, component, tokens))
  return (cell: number, row: number) => mine(cell, row) && !theirs.some((holds) => holds(cell, row))
}

function holdings(memory: RankMemory, component: string, tokens: number) {
  const held = memory.heldOf.get(component)
  if (!held) return () => false
  const list = new Set(heldTokens(memory, held, tokens))
  return (cell: number, row: number) => {
    const rowTokens = memory.cells.get(cell)
    return rowTokens !== undefined && (rowTokens === 0 || list.has(row * rowTokens))
  }
}
