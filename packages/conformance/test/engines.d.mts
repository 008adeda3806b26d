import type { ConformanceOptions, Fixture } from '@kvx/conformance/run'

export interface Engine {
  readonly name: string
  readonly skip: NonNullable<ConformanceOptions['skip']>
  /** Of one that must not be used: what the reason says. */
  readonly refused?: RegExp
  /** Fetches the library, where it is a vendor's. */
  fixture(): Fixture | Promise<Fixture>
}

export const engines: readonly Engine[]

export function shmOnGpus(memory: NonNullable<Fixture['memory']>): Fixture
