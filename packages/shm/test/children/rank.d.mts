import type { KVManager, KVReceiver, KVSender } from '@kvx/core'
import type { AllocatedMemory } from '@kvx/native'

export const token: string
export function openRank(
  role: 'prefill' | 'decode',
  bootstrap?: string,
): Promise<{ manager: KVManager; memory: AllocatedMemory }>
/** The prefill leg, when decode has reserved. */
export function begin(manager: KVManager): Promise<KVSender>
export function awaitPages(manager: KVManager, from: string): Promise<KVReceiver>
