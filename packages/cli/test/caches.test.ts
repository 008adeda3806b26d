/**
 * Models whose cache is not K and V of every token: sliding windows, a recurrent state, and both kinds of layers in one. Is an answer
 * through two processes that of one, and is it another when nothing crosses?
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  architectures,
  tinyArchitecture,
  unknown,
  window,
} from '../../llama/test/support/architectures.ts'
import { writeGguf } from '../../llama/test/support/gguf.ts'
import { complete, pageGauges, patience, post, Process, startRouter } from './support/cluster.ts'
import { kvx } from './support/command.ts'

let folder = ''

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kvx-caches-'))
})

afterAll(async () => {
  await rm(folder, { recursive: true, force: true })
})

async function modelFile(name: string, contents: Parameters<typeof writeGguf>[0]): Promise<string> {
  const path = join(folder, `${name}.gguf`)
  await writeFile(path, writeGguf(contents))
  return path
}

const pageTokens = 16
const lengths = [5, window - 1, window, window + 1, 63, 333]

/** Every token depends on its place, so that no two parts of a prompt are alike. */
function questionOf(length: number, seed: number) {
  const prompt = Array.from(
    { length },
    (_, i) => 3 + ((i * i * 31 + i * 17 + seed * 101 + length) % 350),
  )
  return { prompt, max_tokens: 12, temperature: 0, ignore_eos: true, stream: false } as const
}

const allPages = (tokens: number) => Math.ceil(tokens / pageTokens)
/** From the beginning of the page in which the window begins. */
const windowPages = (tokens: number) =>
  allPages(tokens) - Math.floor(Math.max(0, tokens - window) / pageTokens)
const slot = 1

/** What crosses for a prompt: pages and slots. */
const served = {
  gemma3: (tokens: number) => allPages(tokens) + windowPages(tokens),
  mamba: () => slot,
  jamba: (tokens: number) => allPages(tokens) + slot,
} as const satisfies Partial<Record<keyof typeof architectures, (tokens: number) => number>>

describe.each(Object.keys(served) as (keyof typeof served)[])('%s', (name) => {
  const processes: Process[] = []
  let prefill: Process
  /** A prefill whose writes move nothing. */
  let suppressed: Process
  let decode: Process
  let alone: Process
  let router: Process

  beforeAll(async () => {
    const model = await modelFile(name, tinyArchitecture(architectures[name]))
    const start = async (mode: string, ...more: string[]) => {
      const started = await Process.start([
        ...['serve', '--disaggregation-mode', mode, '--port', '0', '--model', model],
        ...['--disaggregation-bootstrap-port', '0', '--context-length', '400'],
        ...['--chunked-prefill-size', '100', '--page-size', String(pageTokens), ...more],
      ])
      processes.push(started)
      return started
    }
    // One after another: the first one tries the file and reads it whole, the others need not.
    prefill = await start('prefill')
    const engine = fileURLToPath(new URL('support/suppressed.mjs', import.meta.url))
    ;[decode, alone, suppressed] = await Promise.all([
      start('decode'),
      start('null'),
      start('prefill', '--transfer-backend', engine),
    ])
    router = await startRouter(prefill, decode)
    processes.push(router)
  }, patience)

  afterAll(async () => {
    await Promise.all(processes.map((one) => one.stop()))
  }, patience)

  test(
    'prompts shorter than a window, as long, and far longer have the tokens of one process, by what crosses alone',
    { timeout: patience },
    async () => {
      const atRest = await pageGauges(decode)
      for (const length of lengths) {
        const question = questionOf(length, 1)
        const [split, whole] = await Promise.all([
          complete(router.url, question),
          complete(alone.url, question),
        ])
        expect({ length, tokens: split.tokens }).toEqual({ length, tokens: whole.tokens })
        expect(split.tokens).toHaveLength(question.max_tokens)
        expect(split.kvx.transfer).toMatchObject({ pages: served[name](length), backend: 'shm' })
        // Decode computed its own tokens and nothing of the prompt.
        expect(split.kvx.evaluated_tokens).toBe(question.max_tokens - 1)
      }
      const leased = decode.events.filter((event) => event.name === 'pages.leased')
      expect(leased).toHaveLength(lengths.length)
      for (const { request } of leased) {
        await decode.event((event) => event.name === 'pages.released' && event.request === request)
      }
      expect(await pageGauges(decode)).toEqual(atRest)
    },
  )

  test('when nothing crosses, the answer is another one', { timeout: patience }, async () => {
    // Prompts that decode has never had: what others left in its pages is not what they need.
    for (const [i, length] of lengths.entries()) {
      const question = questionOf(length, 2)
      const whole = await complete(alone.url, question)
      const body = {
        ...{ ...question, bootstrap_host: '127.0.0.1', bootstrap_room: 7_000 + i },
        bootstrap_port: suppressed.bootstrapPort,
      }
      const other = post(suppressed.url, body)
      const { tokens, kvx: report } = await complete(decode.url, body)
      expect((await other).status).toBe(200)
      expect(report.transfer).toMatchObject({ pages: served[name](length) })
      // The first token is that of prefill, which has computed the prompt.
      expect(tokens[0]).toBe(whole.tokens[0])
      expect({ length, tokens }).not.toEqual({ length, tokens: whole.tokens })
    }
  })
})

test.each([
  ['plamo3', 'it has sliding-window attention of a kind that kvx does not know'],
  ['lfm2', 'it keeps a recurrent state of a kind that kvx does not know'],
] as const)('a worker does not start with %s: %s', { timeout: patience }, async (name, reason) => {
  const model = await modelFile(name, tinyArchitecture(unknown[name]))
  const { code, lastWords } = await kvx(
    ...['serve', '--disaggregation-mode', 'prefill', '--port', '0', '--model', model],
    ...['--disaggregation-bootstrap-port', '0', '--context-length', '64'],
  )
  expect(lastWords).toContain(`The model (${name}) cannot be served in pages: ${reason}`)
  expect(code).toBe(1)
})
