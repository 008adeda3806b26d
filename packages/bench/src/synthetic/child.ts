/** The process of one rank: does what its parent says, and ends with it. */
import { toKvxError } from '@kvx/contract'
import { BlockCache } from '../trace/blocks.ts'
import { receiveBlocks, sendBlocks } from '../trace/rank.ts'
import { receiveRequest } from './decode.ts'
import type { Job, RankOptions } from './options.ts'
import { costOf } from './meter.ts'
import { sendRequest } from './prefill.ts'
import { SyntheticRank, type RankResult } from './rank.ts'

/** What a parent says. */
export type Word =
  | { readonly do: 'open'; readonly options: RankOptions }
  | { readonly do: 'serve'; readonly job: Job }
  | { readonly do: 'abort'; readonly room: string }
  | { readonly do: 'close' }

/** What a child says. */
export type Answer =
  | { readonly is: 'open'; readonly engine: { readonly backend: string; readonly version: string } }
  /** prefill has written something; of a trace, decode has its pages */
  | { readonly is: 'written'; readonly room: string }
  | { readonly is: 'served'; readonly room: string; readonly result: RankResult }
  | { readonly is: 'closed'; readonly lostPages: number }
  | { readonly is: 'failed'; readonly error: { readonly code: string; readonly message: string } }

let rank: SyntheticRank | undefined
/** Of traces. */
let blocks: BlockCache | undefined

function say(answer: Answer): void {
  // The parent may be gone: 'disconnect' ends this process.
  process.send?.(answer, undefined, undefined, () => undefined)
}

/** The part of this rank in one request. Never throws; what it holds it has given back. */
async function serve(host: SyntheticRank, job: Job): Promise<RankResult> {
  const onWritten = (): void => {
    say({ is: 'written', room: job.room })
  }
  const isPrefill = host.options.role === 'prefill'
  try {
    if (job.blocks === undefined) {
      return isPrefill ? await sendRequest(host, job, onWritten) : await receiveRequest(host, job)
    }
    if (isPrefill) return await sendBlocks(host, job)
    blocks ??= new BlockCache(host.pool('kv'))
    return await receiveBlocks(host, job, blocks, onWritten)
  } catch (cause) {
    const { code, message } = toKvxError(cause)
    return { error: { code, message } }
  } finally {
    host.onAbort(job.room, undefined)
  }
}

async function obey(word: Word): Promise<void> {
  switch (word.do) {
    case 'open':
      rank = await SyntheticRank.open(word.options)
      say({ is: 'open', engine: rank.manager.engine })
      return
    case 'serve': {
      const { job } = word
      const before = rank?.meter?.read()
      const result = await serve(rank!, job)
      const after = rank?.meter?.read()
      const cost = before && after && costOf([after], [before])
      say({ is: 'served', room: job.room, result: { ...result, ...(cost && { cost }) } })
      return
    }
    case 'abort':
      rank?.abort(word.room)
      return
    case 'close': {
      blocks?.clear()
      const lostPages = rank?.lost() ?? 0
      await rank?.close()
      say({ is: 'closed', lostPages })
    }
  }
}

// Ctrl-C at a terminal is for the whole group: the parent decides.
process.on('SIGINT', () => undefined)
process.once('disconnect', () => {
  process.exit()
})
process.on('message', (word: Word) => {
  obey(word).catch((cause: unknown) => {
    const { code, message } = toKvxError(cause)
    say({ is: 'failed', error: { code, message } })
  })
})
