import { spawn } from 'node:child_process'
import { setMaxListeners } from 'node:events'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { LlamaModel } from '../src/index.ts'
import { writeGguf } from './support/gguf.ts'
import { modelWith, tokenizers } from './support/vocabularies.ts'

let folder: string
let path: string
let model: LlamaModel

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kvx-aside-'))
  path = join(folder, 'model.gguf')
  const [spm] = tokenizers
  if (!spm) throw new Error('no tokenizer')
  await writeFile(path, writeGguf(modelWith(spm)))
  model = await LlamaModel.load({ path, contextLength: 100_000, chunkTokens: 64 })
})

afterEach(async () => {
  await model.dispose()
  await rm(folder, { recursive: true })
})

/** Process ids of the children of a process. */
function childrenOf(pid: number): number[] {
  const tasks = `/proc/${String(pid)}/task`
  return readdirSync(tasks).flatMap((task) =>
    readFileSync(`${tasks}/${task}/children`, 'utf8').trim().split(' ').filter(Boolean).map(Number),
  )
}

const long = (words: number) => 'the cat is '.repeat(words / 3)

test('a text whose length alone tells that it is too long is refused without another process', async () => {
  await expect(model.tokenizePrompt('the'.repeat(2_000_000))).rejects.toMatchObject({
    code: 'ERR_KVX_INVALID_ARGUMENT',
    message: expect.stringMatching(
      /^The prompt has 6000000 bytes, and therefore more than 100000 tokens/,
    ),
  })
  expect(childrenOf(process.pid)).toEqual([])
})

test('special tokens beyond the context are refused once enough of them are counted', async () => {
  const text = '<tool>'.repeat(110_000)
  await expect(model.tokenizePrompt(text)).rejects.toMatchObject({
    code: 'ERR_KVX_INVALID_ARGUMENT',
    message:
      'The prompt has 100001 tokens or more; the context length is 100000. Shorten the prompt.',
  })
})

test('500,000 characters that no token has are refused, and the prompt behind them is tokenized', async () => {
  const bad = expect(model.tokenizePrompt('ж'.repeat(500_000))).rejects.toMatchObject({
    code: 'ERR_KVX_INVALID_ARGUMENT',
    message:
      'The prompt has 100001 tokens or more; the context length is 100000. Shorten the prompt.',
  })
  expect(await model.tokenizePrompt(long(9000))).toEqual(model.tokenize(long(9000)))
  await bad
})

test('the event loop turns while a long text is tokenized', async () => {
  await model.tokenizePrompt(long(9000))
  let turns = 0
  let done = false
  const turn = () => {
    turns++
    if (!done) setImmediate(turn)
  }
  setImmediate(turn)
  await model.tokenizePrompt(long(30_000))
  done = true
  expect(turns).toBeGreaterThan(3)
})

test('short texts need no other process', async () => {
  expect(await model.tokenizePrompt('the cat')).toEqual(model.tokenize('the cat'))
  expect(childrenOf(process.pid)).toEqual([])
})

test('when the other process dies its text gets an error that says so, and the next text another process', async () => {
  await model.tokenizePrompt(long(9000))
  const [child = 0] = childrenOf(process.pid)
  process.kill(child, 'SIGSTOP')
  const lost = model.tokenizePrompt(long(9000))
  const next = model.tokenizePrompt(long(12_000))
  const failed = expect(lost).rejects.toMatchObject({
    code: 'ERR_KVX_MODEL',
    message: expect.stringContaining('got SIGKILL') as string,
  })
  process.kill(child, 'SIGKILL')
  await failed
  expect(await next).toEqual(model.tokenize(long(12_000)))
  expect(childrenOf(process.pid)).toHaveLength(1)
})

test('at most 64 long texts wait, and one that nobody wants any more leaves the line', async () => {
  await model.tokenizePrompt(long(9000))
  const [child = 0] = childrenOf(process.pid)
  process.kill(child, 'SIGSTOP')
  const gone = new AbortController()
  setMaxListeners(0, gone.signal)
  const waiting = Array.from({ length: 65 }, () => model.tokenizePrompt(long(9000), gone.signal))
  await expect(model.tokenizePrompt(long(9000))).rejects.toMatchObject({
    code: 'ERR_KVX_OVER_LIMIT',
  })
  const ends = Promise.allSettled(waiting.slice(1))
  gone.abort()
  const first = await waiting[0]?.catch((error: unknown) => error)
  expect(first).toMatchObject({ code: 'ERR_KVX_ABORTED' })
  for (const { status } of await ends) expect(status).toBe('rejected')
  const next = model.tokenizePrompt(long(9000))
  process.kill(child, 'SIGCONT')
  expect(await next).toHaveLength(model.tokenize(long(9000)).length)
})

test('closing the model fails the text that is being tokenized and ends the process', async () => {
  await model.tokenizePrompt(long(9000))
  const [child = 0] = childrenOf(process.pid)
  process.kill(child, 'SIGSTOP')
  const waiting = expect(model.tokenizePrompt(long(9000))).rejects.toMatchObject({
    code: 'ERR_KVX_CLOSED',
  })
  await model.dispose()
  await waiting
  expect(existsSync(`/proc/${String(child)}`)).toBe(false)
})

test('the other process ends when the one that it works for is killed', async () => {
  const index = new URL('../dist/index.js', import.meta.url).href
  const program = `
    const { LlamaModel } = await import(${JSON.stringify(index)})
    const model = await LlamaModel.load({ path: ${JSON.stringify(path)}, contextLength: 10000 })
    await model.tokenizePrompt('the cat is '.repeat(1000))
    console.log('ready')
    setInterval(() => undefined, 1000)`
  const file = join(folder, 'worker.mjs')
  await writeFile(file, program)
  const worker = spawn(process.execPath, [file], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  try {
    await new Promise((resolve, reject) => {
      worker.stdout.once('data', resolve)
      worker.once('exit', reject)
    })
    const [child = 0] = childrenOf(worker.pid ?? 0)
    expect(existsSync(`/proc/${String(child)}`)).toBe(true)
    worker.kill('SIGKILL')
    await vi.waitFor(
      () => {
        expect(existsSync(`/proc/${String(child)}`)).toBe(false)
      },
      { timeout: 60_000 },
    )
  } finally {
    worker.kill('SIGKILL')
  }
})
