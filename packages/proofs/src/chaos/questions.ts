/** What is asked, and what one process answers to it. */
import { join } from 'node:path'
import { Random } from '@kvx/simulator'
import { ask } from './client.ts'
import { KvxProcess } from './process.ts'
import { patienceMs, workerArgs } from './settings.ts'

export interface Question {
  readonly prompt: readonly number[]
  readonly maxTokens: number
  /** The tokens of a standalone worker. */
  readonly answer: readonly number[]
}

const count = 24
/** Tokens of the shortest prompt: several chunks. */
const shortest = 20

/** Prompts of as many tokens as no other has, so that a worker's events tell which one it is. */
function drawPrompts(random: Random): Omit<Question, 'answer'>[] {
  return Array.from({ length: count }, (_, i) => ({
    prompt: Array.from({ length: shortest + i }, () => random.between(300, 40_000)),
    maxTokens: random.between(5, 12),
  }))
}

/**
 * Asks a standalone worker each question once.
 * @throws Error when one cannot be answered
 */
export async function answerAlone(
  seed: number,
  env: Readonly<Record<string, string>>,
  folder: string,
): Promise<Question[]> {
  const alone = new KvxProcess({
    name: 'standalone',
    args: workerArgs('null', 'shm', 0, 0),
    env,
    logFile: join(folder, 'standalone.log'),
    onEvent: () => undefined,
  })
  try {
    const { url } = await alone.ready
    const questions: Question[] = []
    for (const { prompt, maxTokens } of drawPrompts(new Random(seed))) {
      const body = { prompt, max_tokens: maxTokens, stream: false }
      const outcome = await ask(url, body, { signal: new AbortController().signal, patienceMs })
      if (outcome.kind !== 'ok') {
        throw new Error(`the standalone worker failed: ${JSON.stringify(outcome)}`)
      }
      questions.push({ prompt, maxTokens, answer: outcome.tokens })
    }
    return questions
  } finally {
    if (alone.running) alone.signal('SIGKILL')
    await alone.gone
  }
}
