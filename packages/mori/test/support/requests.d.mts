import type { KVManagerOptions } from '@kvx/core'

export const token: string
export const prompt: number[]
export const cache: Pick<KVManagerOptions, 'shape' | 'place'>
export const memoryBytes: number
export const pageBytes: number
export const deadlines: Record<KVManagerOptions['role'], NonNullable<KVManagerOptions['deadlines']>>
