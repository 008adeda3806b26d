import { longestMs } from '../deferred.ts'

/* eslint-disable no-restricted-globals -- The one clock of this folder, and only a default. */

/** Calls `action` after `ms` milliseconds, unless the function that it returns is called before. */
export type Timer = (ms: number, action: () => void) => () => void

export const realTimer: Timer = (ms, action) => {
  const timer = setTimeout(action, Math.min(ms, longestMs))
  return () => {
    clearTimeout(timer)
  }
}
