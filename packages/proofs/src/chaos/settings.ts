/** The deployment under test: small chunks, short deadlines, room for all requests at once. */

/** Requests that run all the time, unless a run asks for another number. */
export const lanes = 8

/** Requests that have to succeed after each round. */
export const afterRound = 20

/** Milliseconds, for the workers. */
export const deadlines = {
  hello: 5_000,
  probe: 1_000,
  reserve: 4_000,
  pairing: 6_000,
  // Waiting for its turn at the model is part of it.
  progress: 80_000,
  transfer: 3_000,
  linger: 5_000,
  peerSilent: 3_000,
  ping: 500,
  drain: 1_000,
  recycle: 2_000,
} as const

/**
 * Milliseconds within which a request that a fault has hit must have its error: the deadlines of all
 * stages that it may have to wait in, one after another.
 */
export const errorWithin = (each: Readonly<Record<keyof typeof deadlines, number>>): number =>
  each.probe +
  each.hello +
  each.reserve +
  each.pairing +
  each.transfer +
  each.linger +
  each.peerSilent
export const errorWithinMs = errorWithin(deadlines)

/** Milliseconds without a piece of its answer after which a request counts as hanging. */
export const patienceMs = 120_000

/** Milliseconds within which the deployment must answer again once all processes run. */
export const recoveryMs = 120_000

/** Milliseconds within which pages must be where they were at the start, without load. */
export const gaugesMs = 30_000

/** Milliseconds that a process which was asked to end has to answer what it had begun: as long as anybody waits. */
export const drainMs = patienceMs

/** Milliseconds that a short freeze lasts: nobody may take it for the end. */
export const shortFreezeMs = 600

/** Milliseconds that a long freeze lasts: everybody must have taken it for the end. */
export const longFreezeMs = deadlines.peerSilent + 1_500

/** Flags of a router: a worker that answers nothing for as long as a silent peer is given up. */
export const routerArgs = [
  ...['--worker-timeout', String(deadlines.peerSilent / 1_000)],
  ...['--drain-timeout', String(drainMs / 1_000)],
]

const engine = [
  ...['--context-length', '128', '--max-running-requests', String(lanes + 2)],
  // Short prompts of several chunks and pages.
  ...['--page-size', '8', '--chunked-prefill-size', '8'],
  ...['--drain-timeout', String(drainMs / 1_000)],
]

const shortDeadlines = [
  '--deadline',
  Object.entries(deadlines)
    .map(([name, ms]) => `${name}=${String(ms)}`)
    .join(','),
]

/** Flags of a worker that keeps the deadlines of kvx itself. */
export function patientWorkerArgs(
  mode: 'prefill' | 'decode' | 'null',
  backend: string,
  port: number,
  bootstrapPort: number,
): string[] {
  return [
    ...['serve', '--disaggregation-mode', mode, '--port', String(port)],
    ...['--disaggregation-bootstrap-port', String(bootstrapPort)],
    ...['--transfer-backend', backend, ...engine],
  ]
}

export function workerArgs(...worker: Parameters<typeof patientWorkerArgs>): string[] {
  return [...patientWorkerArgs(...worker), ...shortDeadlines]
}
