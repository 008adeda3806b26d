/** Processes that are still there when all should have ended. */
import { readdir, readFile } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'

/** Milliseconds that helpers of an engine have to follow the process that started them. */
const graceMs = 3_000

/**
 * Ends, one by one, every process with `variable` in its environment, and tells which there were.
 * @param variable `NAME=VALUE`, which only processes of this run have
 */
export async function endSurvivors(variable: string): Promise<string[]> {
  const end = Date.now() + graceMs
  let found = await processesWith(variable)
  while (found.length > 0 && Date.now() < end) {
    await sleep(100)
    found = await processesWith(variable)
  }
  for (const { pid } of found) {
    try {
      process.kill(pid, 'SIGKILL')
    } catch {
      // It has just ended by itself.
    }
  }
  return found.map(({ pid, command }) => `${String(pid)} (${command})`)
}

async function processesWith(variable: string): Promise<{ pid: number; command: string }[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name))
  const all = await Promise.all(
    pids.map(async (pid) => {
      try {
        const environment = await readFile(`/proc/${pid}/environ`, 'utf8')
        if (!environment.split('\0').includes(variable)) return []
        const command = await readFile(`/proc/${pid}/cmdline`, 'utf8')
        return [{ pid: Number(pid), command: command.replaceAll('\0', ' ').trim() }]
      } catch {
        // Gone, or another user's.
        return []
      }
    }),
  )
  return all.flat()
}
