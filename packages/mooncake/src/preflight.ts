import { fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { binding, type Verdict } from './addon.ts'
import type { Library } from './library.ts'
import { peerToPeer, type CheckedOptions } from './options.ts'

/**
 * Mooncake ends the process in several cases: a missing symbol is called, a variable of its own does not parse, a
 * library is something else. So a helper process does first what this one is about to do: it may die, and then there is
 * a message.
 */

export interface Task {
  readonly options: CheckedOptions
  readonly library: Library
}

const deadlineMs = 60_000

/** Lets a helper process load the library, send bytes with it and open an engine. Never rejects, ends by a deadline. */
export async function preflight(task: Task): Promise<Verdict> {
  try {
    binding()
  } catch (error) {
    return { reason: (error as Error).message }
  }
  return new Promise((resolve) => {
    const helper = fork(fileURLToPath(new URL('./helper.js', import.meta.url)), [], {
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
      execArgv: [],
      env: { ...process.env, NODE_OPTIONS: '' },
    })
    let output = ''
    let verdict: Verdict | undefined
    let late = false
    const collect = (chunk: Buffer): void => {
      output = (output + chunk.toString()).slice(-4000)
    }
    helper.stdout?.on('data', collect)
    helper.stderr?.on('data', collect)
    const deadline = setTimeout(() => {
      late = true
      helper.kill('SIGKILL')
    }, deadlineMs)
    helper.once('message', (message: Verdict) => {
      verdict = message
      helper.kill('SIGKILL') // what it made is not worth being taken down
    })
    // A helper that is busy in the library would not notice that this process has ended.
    const endHelper = (): void => {
      helper.kill('SIGKILL')
    }
    process.once('exit', endHelper)
    const end = (how: string): void => {
      clearTimeout(deadline)
      process.off('exit', endHelper)
      const reason = `A helper process that tried the library ${how}; this process was spared.${reasonIn(output)}`
      resolve(verdict ?? { reason })
    }
    helper.once('error', (error) => {
      end(`could not be started (${error.message})`)
    })
    helper.once('close', (code, signal) => {
      if (late) end(`did not end within ${String(deadlineMs / 1000)} s`)
      else end(signal === null ? `ended with code ${String(code)}` : `was ended by ${signal}`)
    })
    helper.send(task)
  })
}

/** Whether system libraries that TCP alone can do without are needed. */
export function needsAll({ protocol, metadataServer }: CheckedOptions): boolean {
  return protocol !== 'tcp' || metadataServer !== peerToPeer
}

function reasonIn(output: string): string {
  const lines = output.split('\n').filter((line) => line.trim() !== '')
  return lines.length === 0 ? '' : ` It printed: ${lines.slice(-4).join(' | ')}`
}
