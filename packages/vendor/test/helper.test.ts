import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { keepGood, runHelper } from '@kvx/vendor'
import { expect, test } from 'vitest'

const module = new URL('./children/helper.mjs', import.meta.url)
const deadlineMs = 60_000

async function tried(what: string, options: { deadlineMs?: number; env?: NodeJS.ProcessEnv } = {}) {
  const messages: unknown[] = []
  const end = await runHelper(
    module,
    { what },
    {
      deadlineMs,
      ...options,
      onMessage: (message) => messages.push(message),
    },
  )
  return { messages, ...end }
}

test('a helper tells what it finds, without the NODE_OPTIONS of whoever asked', async () => {
  const env = { ...process.env, NODE_OPTIONS: '--throw-deprecation', KVX_TEST_MARK: 'seen' }
  expect(await tried('answer', { env })).toEqual({
    messages: [{ step: 1 }, { step: 2, nodeOptions: '', mark: 'seen' }],
    how: 'ended with code 0',
    printed: '',
  })
})

test('of a helper that aborts there is what it told before, the signal and the last four lines', async () => {
  expect(await tried('abort')).toEqual({
    messages: [{ step: 1 }],
    how: 'was ended by SIGABRT',
    printed: 'It printed: two | three | four | five',
  })
})

test('a helper that hangs is killed at its deadline', async () => {
  expect((await tried('hang', { deadlineMs: 500 })).how).toBe('did not end within 0.5 s')
})

test('a helper that leaves is told by its code', async () => {
  expect((await tried('leave')).how).toBe('ended with code 7')
})

test('a helper that would stay is ended once nothing more is wanted of it', async () => {
  const { how } = await runHelper(
    module,
    { what: 'wait' },
    {
      deadlineMs,
      onMessage: (_, end) => {
        end()
      },
    },
  )
  expect(how).toBe('was ended by SIGKILL')
})

test('a helper ends when whoever asked is gone', async () => {
  const helper = fork(fileURLToPath(module), { execArgv: [] })
  helper.send({ what: 'wait' })
  await once(helper, 'message')
  helper.disconnect()
  expect(await once(helper, 'exit')).toEqual([1, null])
})

test('a good answer is kept for its task, a bad one and a failure are asked again', async () => {
  const asked: string[] = []
  const answers: Record<string, (string | Error)[]> = {
    a: ['good', 'better'],
    b: ['bad', 'good'],
    c: [new Error('no'), 'good'],
  }
  const ask = keepGood(
    async ({ task }: { task: string }) => {
      asked.push(task)
      const answer = answers[task]?.shift() ?? 'none'
      if (answer instanceof Error) throw answer
      return answer
    },
    (answer) => answer !== 'bad',
  )
  expect(await Promise.all([ask({ task: 'a' }), ask({ task: 'a' })])).toEqual(['good', 'good'])
  expect(await ask({ task: 'b' })).toBe('bad')
  expect(await ask({ task: 'b' })).toBe('good')
  await expect(ask({ task: 'c' })).rejects.toThrow('no')
  expect(await ask({ task: 'c' })).toBe('good')
  expect(asked.join('')).toBe('abbcc')
  expect(await ask({ task: 'a' }, { anew: true })).toBe('better')
  expect(await ask({ task: 'a' })).toBe('better')
})
