/** The process that owns the memory which is written to. It ends with its parent. */
import type { DigestJob } from '@kvx/contract'
import { answerAsked } from '../asked.ts'
import { openSide, type OpenSide, type SideOfTransfer } from './side.ts'

export type OwnerWord =
  | { readonly do: 'open'; readonly side: SideOfTransfer }
  | { readonly do: 'digest'; readonly job: Flat }

/** A digest job as it travels between processes. */
export interface Flat {
  readonly pageTokens: number
  readonly tensors: readonly number[]
  readonly runs: readonly number[]
}

export const jobOf = ({ pageTokens, tensors, runs }: Flat): DigestJob => ({
  pageTokens,
  tensors: Float64Array.from(tensors),
  keys: BigUint64Array.of(1n),
  runs: Int32Array.from(runs),
})

let side: OpenSide | undefined

async function obey(word: OwnerWord): Promise<unknown> {
  if (word.do === 'digest') {
    return Buffer.from((await side?.engine.digest(jobOf(word.job))) ?? []).toString('hex')
  }
  side = await openSide(word.side)
  const { generation, address, regions } = side.address
  const text = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64')
  return { generation, address: text(address), regions: regions.map(text) }
}

answerAsked(obey)
