import { KvxError, isErrorCode } from '@kvx/contract'
import { runHelper, unavailable } from '@kvx/vendor'
import type { Dependency } from './addon.ts'
import type { Setup } from './engine.ts'
import { usersEnvironment } from './environment.ts'
import type { Library } from './library.ts'
import type { CheckedOptions } from './options.ts'

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
  const findings = await tryIt(task, deadlineMs)
  if (findings.died !== 'rocm-smi') return findings
  return tryIt({ ...task, skipRocmSmi: true }, deadlineMs)
}

export function setupOf(task: Task, findings: Findings): Setup {
  const rocmSmi = findings.rocmSmi === ''
  const runtime = findings.dependencies.every(
    ({ package: name, problem }) => name !== '' || problem === '',
  )
  return { options: task.options, library: task.library, rocmSmi, gpu: rocmSmi && runtime }
}

async function tryIt(task: Task, deadlineMs: number): Promise<Findings & { died?: Step }> {
  let step: Step = 'load'
  let dependencies: Dependency[] = []
  let rocmSmi = task.skipRocmSmi ? 'it ended the helper process' : 'it was not looked at'
  let outcome: 'ok' | KvxError | undefined
  const { how, printed } = await runHelper<Message>(new URL('./helper.js', import.meta.url), task, {
    deadlineMs,
    // MORI says why it ends the process only in its log.
    env: { MORI_GLOBAL_LOG_LEVEL: 'error', ...usersEnvironment() },
    onMessage: (message) => {
      if (message.kind === 'step') step = message.step
      else if (message.kind === 'dependencies') dependencies = message.list
      else if (message.kind === 'rocm-smi') rocmSmi = message.problem
      else if (message.kind === 'ok') outcome = 'ok'
      else {
        const code = isErrorCode(message.code) ? message.code : 'ERR_KVX_INTERNAL'
        outcome = new KvxError(code, message.message, { phase: 'open' })
      }
    },
  })
  if (outcome === 'ok') return { dependencies, rocmSmi }
  if (outcome !== undefined) return { dependencies, rocmSmi, failure: outcome }
  const reason =
    `MORI cannot be used here: a helper process that tried it ${how} while ${doing[step]}. ` +
    `This process was spared. ${printed}`
  return { dependencies, rocmSmi, failure: unavailable(reason.trimEnd()), died: step }
}
