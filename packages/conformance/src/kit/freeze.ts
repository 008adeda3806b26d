/** A process that is stopped for certain. */
import { readdirSync, readFileSync } from 'node:fs'
import { setImmediate } from 'node:timers/promises'

/** Resolves when no thread of the process runs: `kill` returns before a thread on another core has noticed. */
export async function freeze(pid: number): Promise<void> {
  process.kill(pid, 'SIGSTOP')
  while (!isStopped(pid)) await setImmediate()
}

function isStopped(pid: number): boolean {
  const tasks = `/proc/${pid}/task`
  return readdirSync(tasks).every((task) => {
    // The state comes after the name, which is in parentheses and may hold anything.
    const stat = readFileSync(`${tasks}/${task}/stat`, 'utf8')
    return stat[stat.lastIndexOf(')') + 2] === 'T'
  })
}
