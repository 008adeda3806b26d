/** When a long-running command ends, and how it talks to the kvx that started it. */
import type { Draining } from '@kvx/server/router'

/** What a child tells its parent. */
export interface Ready {
  readonly type: 'ready'
  readonly url: string
  readonly bootstrapPort?: number | undefined
}

/** What a parent tells its child: end at once, or let what runs end first. */
export type Word = 'stop' | 'drain'

/** Whether another kvx started this process and waits for `tellParent`. */
export const hasParent = (): boolean => process.send !== undefined

export function tellParent(ready: Ready): void {
  process.send?.(ready)
}

/** That a process was asked to end. */
export interface Stop {
  /** With which it exits. */
  readonly code: number
  /** What runs may end first. */
  readonly graceful: boolean
  /** Resolves to another exit code when it is asked again, and then nothing may be waited for. */
  readonly hurried: Promise<number>
}

/**
 * Resolves once this process is asked to end: by SIGTERM, which lets what runs end, by Ctrl-C, or as a
 * child by its parent's word or death. A child leaves Ctrl-C, which the terminal sends to the whole
 * group, to its parent.
 */
export function stopRequested(): Promise<Stop> {
  return new Promise((resolve) => {
    let hurry: (code: number) => void = () => undefined
    const hurried = new Promise<number>((done) => (hurry = done))
    let asked = false
    const drain = () => {
      if (!asked) resolve({ code: 0, graceful: true, hurried })
      asked = true
    }
    const stop = (code: number) => {
      if (asked) hurry(code)
      else resolve({ code, graceful: false, hurried })
      asked = true
    }
    // The listeners stay: libraries that find no other listener end the process with the signal.
    let terminated = false
    process.on('SIGTERM', () => {
      if (terminated) hurry(143)
      terminated = true
      // A signal to the whole group comes beside the parent's word: together they are one request.
      drain()
    })
    if (!hasParent()) {
      let interrupted = false
      process.on('SIGINT', () => {
        if (interrupted) process.exit(130)
        interrupted = true
        stop(130)
      })
      return
    }
    process.on('SIGINT', () => undefined)
    process.once('disconnect', () => {
      stop(0)
    })
    process.on('message', (word: Word) => {
      if (word === 'drain') drain()
      else stop(0)
    })
  })
}

/**
 * Starts something and keeps it until the process is asked to end, also while it still starts.
 * @param drainMs how long what runs may take to end
 * @returns the exit code
 */
export async function runUntilStopped<T extends Draining & { close(): Promise<void> }>(
  start: () => Promise<T>,
  onReady: (running: T) => void,
  drainMs: number,
): Promise<number> {
  const stopped = stopRequested()
  const starting = start()
  const early = await Promise.race([starting.then(() => undefined), stopped])
  if (early !== undefined) {
    // Loading a model cannot be interrupted; nothing of it needs an orderly end.
    process.exit(early.code)
  }
  const running = await starting
  onReady(running)
  const { code, graceful, hurried } = await stopped
  let hurriedCode: number | undefined
  if (graceful) {
    const drained = running.drain(drainMs)
    hurriedCode = await Promise.race([drained.then(() => undefined), hurried])
  }
  await running.close()
  return hurriedCode ?? code
}
