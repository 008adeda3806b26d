/** When a long-running command ends, and how it talks to the kvx that started it. */
import { setMaxListeners } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
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

/** Milliseconds after which a process that was asked again ends, whatever it still waits for. */
const hurriedMs = { bySignal: 1_000, byParent: 5_000 }
/** In which what is being started must have given up, once its signal is aborted. */
const giveUpMs = 1_000
/** In which everything must be closed. */
const closeMs = 30_000

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
    const ask = (code: number, graceful: boolean) => {
      asked = true
      resolve({ code, graceful, hurried })
    }
    const askAgain = (code: number, ms: number) => {
      hurry(code)
      setTimeout(() => process.exit(code), ms).unref()
    }
    // The listeners stay: libraries that find no other listener end the process with the signal.
    let terminated = false
    process.on('SIGTERM', () => {
      if (terminated) askAgain(143, hurriedMs.bySignal)
      // A signal to the whole group comes beside the parent's word: together they are one request.
      else if (!asked) ask(0, true)
      terminated = true
    })
    if (!hasParent()) {
      let interrupted = false
      process.on('SIGINT', () => {
        if (interrupted) process.exit(130)
        interrupted = true
        if (asked) askAgain(130, hurriedMs.bySignal)
        else ask(130, false)
      })
      return
    }
    process.on('SIGINT', () => undefined)
    const stop = () => {
      if (asked) askAgain(0, hurriedMs.byParent)
      else ask(0, false)
    }
    process.once('disconnect', stop)
    process.on('message', (word: Word) => {
      if (word !== 'drain') stop()
      else if (!asked) ask(0, true)
    })
    // It died before anybody listened.
    if (!process.connected) stop()
  })
}

/**
 * Starts something and keeps it until the process is asked to end, also while it still starts.
 * @param start gives up and leaves nothing behind when its signal is aborted
 * @param drainMs how long what runs may take to end
 * @returns the exit code
 */
export async function runUntilStopped<T extends Draining & { close(): Promise<void> }>(
  start: (signal: AbortSignal) => Promise<T>,
  onReady: (running: T) => void,
  drainMs: number,
): Promise<number> {
  const stopped = stopRequested()
  const ending = new AbortController()
  const starting = start(ending.signal)
  const early = await Promise.race([starting.then(() => undefined), stopped])
  if (early !== undefined) {
    ending.abort()
    const over = starting.then((running) => running.close()).catch(() => undefined)
    await Promise.race([over, delay(giveUpMs)])
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
  await Promise.race([running.close(), delay(closeMs, undefined, { ref: false })])
  return hurriedCode ?? code
}

/**
 * Does something that ends by itself, and earlier when the process is asked to end.
 * @param work gives up and leaves nothing behind when its signal is aborted
 * @param graceMs in which it must have done so
 * @returns the exit code
 */
export async function runToEnd(
  work: (signal: AbortSignal) => Promise<number>,
  graceMs = 2 * giveUpMs,
): Promise<number> {
  const ending = new AbortController()
  // A listener for each request under way: any number of them is no leak.
  setMaxListeners(0, ending.signal)
  const asked = stopRequested().then(({ code }) => code || 143)
  void asked.then((code) => {
    ending.abort()
    setTimeout(() => process.exit(code), graceMs).unref()
  })
  try {
    const code = await work(ending.signal)
    return ending.signal.aborted ? await asked : code
  } catch (cause) {
    if (ending.signal.aborted) return asked
    throw cause
  }
}
