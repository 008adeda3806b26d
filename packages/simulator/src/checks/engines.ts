/** Engines are fenced and replaced only for pages in quarantine; and what they did before is over then. */
import { spoil } from '../books/legs.ts'
import { violate } from '../machine/violation.ts'
import type { AnyRank } from '../ranks/cast.ts'
import type { DecodeRank } from '../ranks/decode.ts'
import type { PrefillRank } from '../ranks/prefill.ts'

/** @param writer undefined: no process ever had an engine of this generation */
export function onFenced(decode: DecodeRank, writer: PrefillRank | undefined): void {
  for (const reserve of decode.epochs.values())
    if (reserve.peer === writer?.incarnation) reserve.over = true
}

export function onRenewed(decode: DecodeRank): void {
  for (const reserve of decode.epochs.values()) reserve.over = true
}

export function onFence(decode: DecodeRank): void {
  if (!hasFailed(decode))
    violate('needless fence', `${decode.name} fences although nothing of it is in quarantine`)
}

export function onRecycle(process: AnyRank): void {
  for (const { job } of process.legs.values()) spoil(job)
  if (!hasFailed(process))
    violate('needless recycling', `${process.name} replaces its engine although nothing is stuck`)
}

function hasFailed({ legs }: AnyRank): boolean {
  return [...legs.values()].some(({ phase }) => phase === 'failed')
}
