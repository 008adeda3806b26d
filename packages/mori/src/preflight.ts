import { fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { KvxError, isErrorCode } from '@kvx/core/backend'
import { unavailable, type Dependency } from './addon.ts'
import type { Setup } from './engine.ts'
import { usersEnvironment } from './environment.ts'
import type { Library } from './library.ts'
import type { CheckedOptions } from './options.ts'

/**
 * MORI ends, aborts or hangs the process in several cases, some of which cannot be told beforehand. So a
 * helper process does first what this one is about to do: it may die, and then there is a message.
 */

export interface Task {
  readonly options: CheckedOptions
  readonly library: Library
  /** Do not touch ROCm's management library: it has killed a helper. */
  readonly skipRocmSmi?: boolean
}

export type Message =
  | { readonly kind: 'step'; readonly step: Step }
  | { readonly kind: 'dependencies'; readonly list: Dependency[] }
  | { readonly kind: 'rocm-smi'; readonly problem: string }
  | { readonly kind: 'failed'; readonly code: string; readonly message: string }
  | { readonly kind: 'ok' }

export type Step = 'load' | 'rocm-smi' | 'open' | 'register' | 'connect' | 'write' | 'close'

const doing: Record<Step, string> = {
  load: 'loading libraries',
  'rocm-smi': "starting ROCm's management library",
  open: 'starting its RDMA engine',
  register: 'registering memory',
  connect: 'connecting to itself',
  write: 'writing to itself',
  close: 'closing the engine',
}

export interface Findings {
  readonly dependencies: readonly Dependency[]
  /** Why ROCm's management library is replaced; empty: it is not. */
  readonly rocmSmi: string
  /** Absent when MORI works here. */
  readonly failure?: KvxError
}

/** Lets a helper process open an engine and write through it. Never rejects; each try ends by the deadline. */
export async function preflight(task: Task, deadlineMs = 60_000): Promise<Findings> {
  const findings = await runHelper(task, deadlineMs)
  if (findings.died !== 'rocm-smi') return findings
  return runHelper({ ...task, skipRocmSmi: true }, deadlineMs)
}

export function setupOf(task: Task, findings: Findings): Setup {
  const rocmSmi = findings.rocmSmi === ''
  const runtime = findings.dependencies.every(
    ({ package: name, problem }) => name !== '' || problem === '',
  )
  return { options: task.options, library: task.library, rocmSmi, gpu: rocmSmi && runtime }
}

function runHelper(task: Task, deadlineMs: number): Promise<Findings & { died?: Step }> {
  return new Promise((resolve) => {
    const helper = fork(fileURLToPath(new URL('./helper.js', import.meta.url)), [], {
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
      execArgv: [],
      // MORI says why it ends the process only in its log.
      env: { MORI_GLOBAL_LOG_LEVEL: 'error', ...usersEnvironment(), NODE_OPTIONS: '' },
    })
    let step: Step = 'load'
    let output = ''
    let dependencies: Dependency[] = []
    let rocmSmi = task.skipRocmSmi ? 'it ended the helper process' : 'it was not looked at'
    let outcome: 'ok' | KvxError | undefined
    const collect = (chunk: Buffer): void => {
      output = (output + chunk.toString()).slice(-4000)
    }
    helper.stdout?.on('data', collect)
    helper.stderr?.on('data', collect)
    let late = false
    const deadline = setTimeout(() => {
      late = true
      helper.kill('SIGKILL')
    }, deadlineMs)
    helper.on('message', (message: Message) => {
      if (message.kind === 'step') step = message.step
      else if (message.kind === 'dependencies') dependencies = message.list
      else if (message.kind === 'rocm-smi') rocmSmi = message.problem
      else if (message.kind === 'ok') outcome = 'ok'
      else {
        const code = isErrorCode(message.code) ? message.code : 'ERR_KVX_INTERNAL'
        outcome = new KvxError(code, message.message, { phase: 'open' })
      }
    })
    // A helper that is busy in the library would not notice that this process has ended.
    const endHelper = (): void => {
      helper.kill('SIGKILL')
    }
    process.once('exit', endHelper)
    const end = (how: string): void => {
      clearTimeout(deadline)
      process.off('exit', endHelper)
      if (outcome === 'ok') resolve({ dependencies, rocmSmi })
      else if (outcome !== undefined) resolve({ dependencies, rocmSmi, failure: outcome })
      else {
        const failure = unavailable(
          `MORI cannot be used here: a helper process that tried it ${how} while ${doing[step]}. ` +
            `This process was spared. ${reasonIn(output)}`.trimEnd(),
        )
        resolve({ dependencies, rocmSmi, failure, died: step })
      }
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

/** The last lines of what was printed; MORI's errors come with time, level and place in front. */
function reasonIn(output: string): string {
  const lines = output.split('\n').filter((line) => line.trim() !== '')
  return lines.length === 0 ? '' : `It printed: ${lines.slice(-4).join(' | ')}`
}
