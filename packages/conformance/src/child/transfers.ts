/** Transfers of this process: what becomes of each is kept until the test asks. */
import { closeSync, openSync, readSync } from 'node:fs'
import type { Link, Transfer, TransferOptions, TransferPlan, TransferReport } from '@kvx/contract'
import { difference, pattern } from '../kit/pattern.ts'
import { carryOut } from '../kit/plans.ts'
import { finishWork, startWork } from './device-work.ts'
import { Table } from './table.ts'

export const links = new Table<Link>('link')
const transfers = new Table<Recorded>('transfer')
let streaming: { stop: boolean; written: number; failed?: unknown } | undefined

export interface Recorded {
  readonly transfer: Transfer
  done: 'pending' | 'resolved' | 'rejected'
  settled: 'pending' | 'resolved' | 'rejected'
}

/** `after` asks for work of a device: that is not over before `finishWork`, or any handle, for engines that must refuse it. */
export type WriteOptions = Pick<TransferOptions, 'deadlineMs'> & {
  readonly after?: 'unfinished' | 'any'
}

/** Only looked at with handlers of its own: a test wants to know what nobody's handler does. */
function record(transfer: Transfer): number {
  const seen: Recorded = { transfer, done: 'pending', settled: 'pending' }
  transfer.done.then(
    () => (seen.done = 'resolved'),
    () => (seen.done = 'rejected'),
  )
  transfer.settled.then(
    () => (seen.settled = 'resolved'),
    () => (seen.settled = 'rejected'),
  )
  return transfers.add(seen)
}

async function optionsOf({ after, ...options }: WriteOptions = {}): Promise<TransferOptions> {
  if (after === undefined) return options
  return { ...options, after: after === 'any' ? { event: 1n } : await startWork() }
}

/** Thrown by the call itself, where an engine must return a transfer. */
function writeTo(link: number, plan: TransferPlan, options: TransferOptions): Transfer {
  const to = links.get(link)
  try {
    return to.write(plan, options)
  } catch (cause) {
    throw new Error(`write threw: ${String(cause)}`, { cause })
  }
}

export const transferCommands = {
  async write(link: number, plan: TransferPlan, options?: WriteOptions): Promise<number> {
    const given = await optionsOf(options)
    return record(writeTo(link, plan, given))
  },
  /** All in one turn of the loop; those from `cancelFrom` on are cancelled in the same turn. */
  async writeMany(
    given: readonly (readonly [link: number, plan: TransferPlan])[],
    options: WriteOptions = {},
    cancelFrom = given.length,
  ): Promise<number[]> {
    const each = await optionsOf(options)
    const written = given.map(([link, plan]) => writeTo(link, plan, each))
    for (const transfer of written.slice(cancelFrom)) transfer.cancel('nobody waits for it')
    return written.map(record)
  },
  /** Writes and leaves `done` and `settled` alone. */
  async writeAndForget(
    link: number,
    plan: TransferPlan,
    options: WriteOptions = {},
  ): Promise<void> {
    writeTo(link, plan, await optionsOf(options))
  },
  async done(transfer: number): Promise<TransferReport> {
    return transfers.get(transfer).transfer.done
  },
  async settled(transfer: number): Promise<void> {
    await transfers.get(transfer).transfer.settled
  },
  async state(transfer: number): Promise<Pick<Recorded, 'done' | 'settled'>> {
    const { done, settled } = transfers.get(transfer)
    return { done, settled }
  },
  async cancel(transfer: number, reason?: string): Promise<void> {
    transfers.get(transfer).transfer.cancel(reason)
  },
  async closeLink(link: number): Promise<void> {
    await links.get(link).close()
  },
  /**
   * Writes from memory that was filled with `seed`, and reads the target's memory file in the turn in which `done` resolves.
   * Answers what is wrong with it.
   */
  async writeAndLook(
    link: number,
    plan: TransferPlan,
    target: { readonly file: string; readonly bytes: number; readonly before: number },
    seed: number,
  ): Promise<string | undefined> {
    const expected = Buffer.alloc(target.bytes, target.before)
    carryOut(plan, [pattern(seed, target.bytes)], [expected])
    const found = Buffer.alloc(target.bytes)
    const file = openSync(target.file, 'r')
    try {
      const { done } = writeTo(link, plan, {})
      await done
      readSync(file, found, 0, found.length, 0)
    } finally {
      closeSync(file)
    }
    return difference(found, expected)
  },
  /** Writes without end; answers after the first. */
  async stream(link: number, plan: TransferPlan): Promise<void> {
    const state: typeof streaming = { stop: false, written: 0 }
    streaming = state
    const next = async (): Promise<void> => {
      const transfer = writeTo(link, plan, {})
      await transfer.done
      state.written++
    }
    await next()
    const goOn = async (): Promise<void> => {
      while (!state.stop) await next()
    }
    goOn().catch((error: unknown) => (state.failed = error))
  },
  async streamed(): Promise<number> {
    return streaming?.written ?? 0
  },
  async finishWork(): Promise<void> {
    await finishWork()
  },
}

/** Nothing of the last test goes on. */
export function forgetTransfers(): void {
  if (streaming) streaming.stop = true
  streaming = undefined
  links.take()
  transfers.take()
}
