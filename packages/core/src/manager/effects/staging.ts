import { KvxError, type Staging } from '@kvx/contract'
import type { Engine } from '../engine.ts'

/** Of the present generation. An engine is not replaced while a request that uses it runs. */
export async function stagingOf({ current: { staging } }: Engine): Promise<Staging> {
  if (staging) return Promise.resolve(staging)
  throw new KvxError('ERR_KVX_INTERNAL', 'There is no staging memory.', { phase: 'transfer' })
}
