/** What this process has of the system, and what the test wants it to do with itself. */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { stat } from 'node:fs/promises'
import { argv, env, execPath, memoryUsage } from 'node:process'
import { forgetTransfers } from './transfers.ts'
import { engines } from './engine.ts'
import { memories } from './memory.ts'

export interface Resources {
  readonly descriptors: number
  readonly threads: number
  /** Resident, after the garbage was collected. */
  readonly bytes: number
  readonly children: number
  readonly environment: string
}

const started: ChildProcess[] = []

export function resources(): Resources {
  globalThis.gc?.()
  const tasks = readdirSync('/proc/self/task')
  return {
    // One is the descriptor of the folder itself.
    descriptors: readdirSync('/proc/self/fd').length - 1,
    threads: tasks.length,
    bytes: memoryUsage.rss(),
    children: tasks.flatMap((task) =>
      readFileSync(`/proc/self/task/${task}/children`, 'utf8').split(' ').filter(Boolean),
    ).length,
    environment: JSON.stringify(Object.entries(env).sort()),
  }
}

export const processCommands = {
  /** Starts the threads of Node's pool, which are made when there is first something to do. */
  async warmUp(): Promise<void> {
    await Promise.all(Array.from({ length: 64 }, () => stat('/')))
  },
  async resources(): Promise<Resources> {
    return resources()
  },
  /** A program that this process starts, as hosts do, and that outlives it. Answers its process id. */
  async startProgram(): Promise<number> {
    const program = spawn(execPath, ['-e', 'setInterval(() => {}, 1000)'], {
      stdio: 'ignore',
      detached: true,
    })
    started.push(program)
    await once(program, 'spawn')
    return program.pid ?? 0
  },
  async arguments(): Promise<readonly string[]> {
    return argv
  },
  /** Closes and frees everything, so that the process can serve the next test. */
  async reset(): Promise<void> {
    for (const program of started.splice(0)) program.kill('SIGKILL')
    forgetTransfers()
    await Promise.all(engines.take().map((engine) => engine.close()))
    for (const memory of memories.take()) await memory.free()
  },
}
