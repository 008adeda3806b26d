/** Does SGLang's own benchmark run through routers before workers of kvx, with the lengths that it asks for? */
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { resolveModel } from '@kvx/llama'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { patience, Process } from '../../../cli/test/support/cluster.ts'
import { program, pythonClients, pythonOutput } from './support/python.ts'
import { SglangRouter } from './support/sglang-router.ts'
import { writeTokenizer } from './support/tokenizer.ts'

let folder: string
let processes: Process[] = []
let router: SglangRouter
let own: Process

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kvx-bench-serving-'))
  await writeTokenizer((await resolveModel('smollm2')).path, join(folder, 'tokenizer'))
  processes = await Promise.all(
    ['prefill', 'decode'].map((mode) =>
      Process.start([
        ...['serve', '--disaggregation-mode', mode, '--port', '0'],
        ...['--disaggregation-bootstrap-port', '0', '--context-length', '512'],
      ]),
    ),
  )
  const [prefill, decode] = processes as [Process, Process]
  router = await SglangRouter.start('router', prefill, decode)
  own = await Process.start([
    ...['router', '--port', '0', '--prefill', prefill.url, '--decode', decode.url],
  ])
  processes.push(own)
}, patience)

afterAll(async () => {
  await router.stop()
  await Promise.all(processes.map((one) => one.stop()))
  await rm(folder, { recursive: true, force: true })
}, patience)

const prompts = 6
const [input, output] = [48, 16]

interface Details {
  readonly completed: number
  readonly total_output_tokens: number
  readonly input_lens: readonly number[]
  readonly output_lens: readonly number[]
  readonly ttfts: readonly number[]
  readonly itls: readonly (readonly number[])[]
  readonly generated_texts: readonly string[]
  readonly errors: readonly string[]
}

test.each([
  ['sglang', "SGLang's router"],
  ['sglang-oai', "SGLang's router"],
  ['sglang-oai-chat', "SGLang's router"],
  ['sglang', 'kvx router'],
])(
  'all requests of bench_serving --backend %s through %s succeed, with as many tokens as it asks for',
  async (backend, through) => {
    const file = join(folder, `${backend} ${through}.jsonl`)
    const { url } = through === 'kvx router' ? own : router
    const { sglang } = await pythonClients()
    await pythonOutput([
      ...[program('bench_serving.py'), sglang, '--backend', backend, '--base-url', url],
      ...['--model', 'smollm2', '--tokenizer', join(folder, 'tokenizer')],
      ...['--dataset-name', 'random-ids', '--num-prompts', String(prompts)],
      ...['--random-input-len', String(input), '--random-output-len', String(output)],
      ...['--random-range-ratio', '1', '--max-concurrency', '3', '--disable-tqdm'],
      // After the first request, and before those that count.
      '--flush-cache',
      ...['--output-file', file, '--output-details'],
    ])
    // Python writes what JSON has no word for.
    const text = (await readFile(file, 'utf8')).replace(/-?\b(Infinity|NaN)\b/g, 'null')
    const details = JSON.parse(text) as Details
    expect(details.completed).toBe(prompts)
    expect(details.errors).toEqual(Array(prompts).fill(''))
    expect(details.output_lens).toEqual(Array(prompts).fill(output))
    expect(details.generated_texts.every((text) => text !== '')).toBe(true)
    expect(details.ttfts.every((seconds) => seconds > 0)).toBe(true)
    // The lengths are partly the client's own word; that so many pieces came is not.
    for (const gaps of details.itls) expect(gaps.length).toBeGreaterThanOrEqual(output / 2)
  },
)
