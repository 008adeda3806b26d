/** When a long-running command ends, and how it talks to the kvx that started it. */

/** What a child tells its parent. */
export interface Ready {
  readonly type: 'ready'
  readonly url: string
  readonly bootstrapPort?: number | undefined
}

export const stopMessage = 'stop'

/** Whether another kvx started this process and waits for `tellParent`. */
export const hasParent = (): boolean => process.send !== undefined

export function tellParent(ready: Ready): void {
  process.send?.(ready)
}

/**
 * Resolves to the exit code once this process is asked to end: by a signal, or as a child by its
 * parent's word or death. A child leaves Ctrl-C, which the terminal sends to the whole group, to its parent.
 */
export function stopRequested(): Promise<number> {
  return new Promise((resolve) => {
    // The listeners stay: libraries that find no other listener end the process with the signal.
    process.on('SIGTERM', () => {
      resolve(0)
    })
    if (!hasParent()) {
      let interrupted = false
      process.on('SIGINT', () => {
        if (interrupted) process.exit(130)
        interrupted = true
        resolve(130)
      })
      return
    }
    process.on('SIGINT', () => undefined)
    process.once('disconnect', () => {
      resolve(0)
    })
    process.on('message', (message) => {
      if (message === stopMessage) resolve(0)
    })
  })
}

/**
 * Starts something and keeps it until the process is asked to end, also while it still starts.
 * @returns the exit code
 */
export async function runUntilStopped<T extends { close(): Promise<void> }>(
  start: () => Promise<T>,
  onReady: (running: T) => void,
): Promise<number> {
  const stopped = stopRequested()
  const starting = start()
  const early = await Promise.race([starting.then(() => undefined), stopped])
  if (early !== undefined) {
    // Loading a model cannot be interrupted; nothing of it needs an orderly end.
    process.exit(early)
  }
  const running = await starting
  onReady(running)
  const code = await stopped
  await running.close()
  return code
}
