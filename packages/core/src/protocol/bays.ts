/** Bays: equal parts of the staging memory of one engine, of which each load takes one. */

/** Of one generation of an engine: what is taken from one is given back to the same. */
export interface Bays {
  readonly taken: boolean[]
}

/** One that is taken. */
export interface Bay {
  readonly of: Bays
  readonly number: number
}

/** What a side has for staging. */
export interface StagingSize {
  readonly bays: number
  readonly bayBytes: number
}

/** Loads of one transfer that are under way at the same time, at most: asked for, and neither scattered nor refused. */
export const loadsAtOnce = 4

/** Fewer runs than that are written sooner than a bay is asked for. */
export const fewestRuns = 8

/** In so many bays staging memory is divided: enough for the loads of some requests. */
const bayCount = 16
/** A bay begins where a page of memory does. */
const bayUnit = 4_096

/** Staging memory of so many bytes; undefined for too few. */
export function divide(bytes: number): StagingSize | undefined {
  const bayBytes = Math.floor(bytes / bayCount / bayUnit) * bayUnit
  return bayBytes > 0 ? { bays: bayCount, bayBytes } : undefined
}

export function makeBays(size: StagingSize | undefined): Bays {
  return { taken: Array<boolean>(size?.bays ?? 0).fill(false) }
}

/** Undefined when none is free. */
export function takeBay(bays: Bays): Bay | undefined {
  const number = bays.taken.indexOf(false)
  if (number < 0) return undefined
  bays.taken[number] = true
  return { of: bays, number }
}

export function giveBay({ of, number }: Bay): void {
  of.taken[number] = false
}

export function bayOffset({ number }: Bay, { bayBytes }: StagingSize): number {
  return number * bayBytes
}
