import { fork, type Serializable } from 'node:child_process'
import { fileURLToPath } from 'node:url'

/**
 * Vendors' libraries end, abort or hang the process in several cases, some of which cannot be told beforehand. So a
 * helper process does first what this one is about to do: it may die, and then there is a message.
 */

export interface HelperOptions<Message> {
  /** The helper is killed after this time. */
  readonly deadlineMs: number
  /** Default: this process's. `NODE_OPTIONS` is always emptied. */
  readonly env?: NodeJS.ProcessEnv | undefined
  /** `end` kills the helper: nothing more is wanted of it. */
  readonly onMessage: (message: Message, end: () => void) => void
}

export interface HelperEnd {
  /** How the helper ended, after "a helper process": "was ended by SIGABRT". */
  readonly how: string
  /** The last lines that it printed, as a sentence that begins with "It printed:"; empty when there were none. */
  readonly printed: string
}

/** Runs `module` in a process of its own and gives it the task. Never rejects, and ends by the deadline. */
export function runHelper<Message>(
  module: URL,
  task: Serializable,
  { deadlineMs, env = process.env, onMessage }: HelperOptions<Message>,
): Promise<HelperEnd> {
  return new Promise((resolve) => {
    const helper = fork(fileURLToPath(module), [], {
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
      execArgv: [],
      env: { ...env, NODE_OPTIONS: '' },
    })
    let output = ''
    const collect = (chunk: Buffer): void => {
      output = (output + chunk.toString()).slice(-4000)
    }
    helper.stdout?.on('data', collect)
    helper.stderr?.on('data', collect)
    const kill = (): void => {
      helper.kill('SIGKILL')
    }
    let late = false
    const deadline = setTimeout(() => {
      late = true
      kill()
    }, deadlineMs)
    // A helper that is busy in the library would not notice that this process has ended.
    process.once('exit', kill)
    const end = (how: string): void => {
      clearTimeout(deadline)
      process.off('exit', kill)
      resolve({ how, printed: lastLines(output) })
    }
    helper.on('message', (message) => {
      onMessage(message as Message, kill)
    })
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

function lastLines(output: string): string {
  const lines = output.split('\n').filter((line) => line.trim() !== '')
  return lines.length === 0 ? '' : `It printed: ${lines.slice(-4).join(' | ')}`
}

/** In the helper: does `work` with the task that comes. The process ends when whoever asked is gone. */
export function onTask(work: (task: unknown) => Promise<void>): void {
  process.once('message', (task) => {
    void work(task)
  })
  process.once('disconnect', () => process.exit(1))
}

/** In the helper: resolves when the message is on its way, so that the next step may be the last of the process. */
export function tell(message: Serializable): Promise<void> {
  return new Promise((resolve) => {
    process.send?.(message, undefined, undefined, () => {
      resolve()
    })
  })
}

/**
 * Answers that cost a helper process: a good one is kept for the same task, a bad one is not, because the machine may
 * have been mended meanwhile. `anew` asks again in any case.
 */
export function keepGood<Task, Answer>(
  ask: (task: Task) => Promise<Answer>,
  isGood: (answer: Answer) => boolean,
): (task: Task, options?: { anew: boolean }) => Promise<Answer> {
  const answers = new Map<string, Promise<Answer>>()
  return async (task, { anew } = { anew: false }) => {
    const key = JSON.stringify(task)
    const known = anew ? undefined : answers.get(key)
    const asked = known ?? ask(task)
    answers.set(key, asked)
    let good = false
    try {
      const answer = await asked
      good = isGood(answer)
      return answer
    } finally {
      if (!good && answers.get(key) === asked) answers.delete(key)
    }
  }
}
