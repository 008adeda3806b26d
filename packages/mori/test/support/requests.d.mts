import type { KVManagerOptions } from '@kvx/core'

export const token: string
export const prompt: number[]
export const layout: KVManagerOptions['layout']
export const memoryBytes: number
export const deadlines: Record<KVManagerOptions['role'], NonNullable<KVManagerOptions['deadlines']>>
