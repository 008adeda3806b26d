/** Kinds of faults as coverage counts them: columns of its table, bits of a mask. */
export const faultNames = [
  'none',
  'reconnect',
  'restart',
  'freeze',
  'partition',
  'engine',
  'recycle',
  'abort',
  'bootstrap',
] as const
export type FaultName = (typeof faultNames)[number]

export const fault = Object.fromEntries(faultNames.map((name, i) => [name, 1 << i])) as Record<
  FaultName,
  number
>
