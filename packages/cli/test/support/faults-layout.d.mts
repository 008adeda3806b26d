import type { Layout } from '@kvx/core'

export const token: string
export const pageTokens: number
export const pageBytes: number
export const poolPages: number
export function ids(tokens: number): number[]
export function layoutOf(pages: number): Layout
