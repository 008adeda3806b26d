/**
 * llama.cpp ends the process for many a file that is well-formed and makes no sense: a width of 0, a
 * vocabulary without bytes. So a file is tried in a process of its own before this one loads it: once, until
 * it changes.
 */
import { fork } from 'node:child_process'
import { createHash } from 'node:crypto'
import { fileURLToPath } from 'node:url'
import { isErrorCode, KvxError } from '@kvx/contract'
import { bindingVersion } from '../binding.ts'
import type { LoadOptions } from '../options.ts'
import { refused } from './gguf.ts'
import type { ModelPart } from './parts.ts'
import { remembered } from './remember.ts'

export type Task = Pick<
  LoadOptions,
  'path' | 'contextLength' | 'sequences' | 'chunkTokens' | 'threads' | 'kvCacheDtype'
>

/** What the other process says at its end. */
export type Verdict =
  | { readonly kind: 'ok' }
  | { readonly kind: 'failed'; readonly code: string; readonly message: string }

const leastMs = 60_000
/** A slow disk and a slow processor. */
const bytesPerMs = 20_000

/**
 * @throws KvxError `ERR_KVX_MODEL` when llama.cpp does not survive the file; and what `LlamaModel.open`
 *   throws there
 */
export async function tryModel(parts: readonly ModelPart[], task: Task): Promise<void> {
  const how = task.kvCacheDtype === 'q8_0' ? ', with K in q8_0' : ''
  await remembered(`loads in node-llama-cpp ${bindingVersion}${how}`, parts, async () => {
    await runTrial(parts, task)
    return createHash('sha256').digest('hex')
  })
}

function runTrial(parts: readonly ModelPart[], task: Task): Promise<void> {
  const bytes = parts
    .flatMap(({ gguf }) => gguf.tensors)
    .reduce((sum, tensor) => sum + tensor.bytes, 0)
  const deadlineMs = Math.min(leastMs + bytes / bytesPerMs, 2 ** 31 - 1)
  return new Promise((resolve, reject) => {
    // The built file, also for whoever runs the source.
    const program = new URL('../../dist/models/trialProcess.js', import.meta.url)
    const trial = fork(fileURLToPath(program), [], {
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
      execArgv: [],
      env: { ...process.env, NODE_OPTIONS: '' },
    })
    let verdict: Verdict | undefined
    let late = false
    let output = ''
    trial.stderr?.on('data', (chunk: Buffer) => {
      output = (output + chunk.toString()).slice(-8_000)
    })
    const deadline = setTimeout(() => {
      late = true
      trial.kill('SIGKILL')
    }, deadlineMs)
    trial.on('message', (message: Verdict) => {
      verdict = message
    })
    trial.once('error', (cause) => {
      clearTimeout(deadline)
      reject(
        refused(task.path, `could not be tried in a process of its own: ${cause.message}.`, cause),
      )
    })
    trial.once('close', (code, signal) => {
      clearTimeout(deadline)
      if (verdict?.kind === 'ok') resolve()
      else if (verdict) reject(failure(verdict))
      else {
        const how = late
          ? `keeps llama.cpp busy for more than ${String(Math.round(deadlineMs / 1000))} s`
          : `ends llama.cpp (${signal ?? `exit code ${String(code)}`})`
        reject(
          refused(
            task.path,
            `${how}: it is damaged, or not a model that can be served.${reasonIn(output)}`,
          ),
        )
      }
    })
    // Whoever has ended already says so by 'close'.
    trial.send(task, () => undefined)
  })
}

function failure({ code, message }: Verdict & { kind: 'failed' }): KvxError {
  return new KvxError(isErrorCode(code) ? code : 'ERR_KVX_MODEL', message, { phase: 'open' })
}

/** What llama.cpp says before it aborts, or the C++ runtime for it. */
function reasonIn(output: string): string {
  const reason = /GGML_ASSERT\(.*|GGML_ABORT.*|what\(\):.*|terminate called.*/.exec(output)
  return reason ? ` It said: ${reason[0].trim()}.` : ''
}
