import type { KVManagerOptions } from '@kvx/core'

export const token: string
export const pageTokens: number
export const pageBytes: number
export const poolPages: number
export function ids(tokens: number): number[]
export const cache: Pick<KVManagerOptions, 'shape' | 'place'>
