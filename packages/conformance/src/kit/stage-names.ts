/** How far a process gets before it ends, in the tests of its end. */
export const stageNames = [
  ...(['loaded', 'opened', 'registered', 'connected', 'writing', 'closing', 'closed'] as const),
]
export type StageName = (typeof stageNames)[number]
