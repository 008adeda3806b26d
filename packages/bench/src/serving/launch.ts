/** The processes of a deployment, as whoever can start them gives them. */

/** A worker or a router. It ends with this process. */
export interface ServerProcess {
  readonly name: string
  readonly pid: number | undefined
  /** Where it listens. Rejects when it ends before it does. */
  readonly ready: Promise<{ readonly url: string; readonly bootstrapPort?: number | undefined }>
  /** Resolves once it is gone, with a few words about how. */
  readonly gone: Promise<string>
  stop(): Promise<void>
}

/**
 * Starts `kvx` with these arguments, in one deployment with all others that this function has started.
 *
 * @param name of the process, in messages
 */
export type Launch = (name: string, args: readonly string[]) => ServerProcess
