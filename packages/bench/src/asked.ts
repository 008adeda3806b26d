/** A process of this package that answers one word after the other, and ends with its parent. */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { isErrorCode, KvxError, toKvxError } from '@kvx/contract'

export interface Asked<W> {
  /** @throws KvxError what it threw there; `ERR_KVX_INTERNAL` when it ended; `ERR_KVX_ABORTED` after the signal */
  ask<T>(word: W): Promise<T>
  kill(): void
}

/** @param name as errors call it */
export function startAsked<W extends object>(
  script: URL,
  name: string,
  signal: AbortSignal | undefined,
): Asked<W> {
  const child = fork(script, [], {
    execArgv: [],
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  })
  const ended = new Promise<never>((_, reject) => {
    child.once('exit', (code, how) => {
      reject(
        new KvxError('ERR_KVX_INTERNAL', `${name} ended: ${how ?? `exit code ${String(code)}`}.`),
      )
    })
    const abort = (): void => {
      reject(aborted())
    }
    signal?.addEventListener('abort', abort)
    if (signal?.aborted === true) abort()
  })
  ended.catch(() => undefined)
  return {
    async ask<T>(word: W): Promise<T> {
      const answered = once(child, 'message')
      child.send(word, () => undefined)
      const [{ answer, error }] = (await Promise.race([answered, ended])) as [
        { answer: T; error?: { code: string; message: string } },
      ]
      if (error === undefined) return answer
      const { code, message } = error
      throw new KvxError(isErrorCode(code) ? code : 'ERR_KVX_INTERNAL', message)
    },
    kill(): void {
      child.kill('SIGKILL')
    },
  }
}

export function aborted(): KvxError {
  return new KvxError('ERR_KVX_ABORTED', 'The measurement was aborted.')
}

/** The child's side: answers each word by what `obey` returns or throws. */
export function answerAsked(obey: (word: never) => Promise<unknown>): void {
  process.once('disconnect', () => {
    process.exit()
  })
  // Ctrl-C at a terminal is for the whole group: the parent decides.
  process.on('SIGINT', () => undefined)
  process.on('message', (word) => {
    obey(word as never).then(
      (answer) => process.send?.({ answer }),
      (cause: unknown) => {
        const { code, message } = toKvxError(cause)
        process.send?.({ error: { code, message } })
      },
    )
  })
}
