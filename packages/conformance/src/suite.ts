import type { Facts, World } from './kit/world.ts'

/** Why a check says nothing about an engine with these facts; undefined when it does. */
export type Unless = (facts: Facts) => string | undefined

export interface Check {
  readonly name: string
  readonly unless: Unless
  run(world: World): Promise<void>
}

export interface Suite {
  readonly name: string
  readonly checks: readonly Check[]
}

export function check(name: string, run: Check['run'], unless: Unless = () => undefined): Check {
  return { name, run, unless }
}
