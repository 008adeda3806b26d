/** K in q8_0: smaller, the same through two processes as in one, and refused when only one side has it. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { complete, patience, post, Process, startRouter } from './support/cluster.ts'

const worker = (mode: string, dtype: string) =>
  Process.start([
    ...['serve', '--disaggregation-mode', mode, '--port', '0', '--kv-cache-dtype', dtype],
    ...['--disaggregation-bootstrap-port', '0', '--context-length', '512'],
    ...['--chunked-prefill-size', '64', '--disable-radix-cache'],
  ])

let processes: Process[] = []
let router: Process
let alone: Process

beforeAll(async () => {
  processes = await Promise.all(['prefill', 'decode', 'null'].map((mode) => worker(mode, 'q8_0')))
  const [prefill, decode, both] = processes as [Process, Process, Process]
  alone = both
  router = await startRouter(prefill, decode)
  processes.push(router)
}, patience)

afterAll(async () => {
  await Promise.all(processes.map((one) => one.stop()))
}, patience)

const prompt = (length: number) => Array.from({ length }, (_, i) => 300 + ((i * 37) % 9_000))

test.each([5, 64, 65, 200])(
  'a prompt of %i tokens has the answer of one process, and moves fewer bytes',
  async (length) => {
    const body = { prompt: prompt(length), max_tokens: 12, temperature: 0, stream: false } as const
    const [split, whole] = await Promise.all([
      complete(router.url, body),
      complete(alone.url, body),
    ])
    expect(split.tokens).toEqual(whole.tokens)
    const pages = Math.ceil(length / 16)
    // 30 layers of 3 heads of 64: K in two blocks of 34 bytes, V in f16.
    expect(split.kvx.transfer?.bytes).toBe(pages * 16 * 30 * 3 * (68 + 128))
  },
)

test('prefill and decode must have the same', async () => {
  const other = await worker('prefill', 'f16')
  processes.push(other)
  const decode = processes[1]
  if (!decode) throw new Error('no decode worker')
  const body = { prompt: prompt(20), max_tokens: 2, bootstrap_room: 5 }
  const answer = await post(decode.url, {
    ...{ ...body, bootstrap_host: '127.0.0.1', bootstrap_port: other.bootstrapPort },
  })
  const text = await answer.text()
  expect(answer.status).toBeGreaterThanOrEqual(400)
  expect(text).toContain('dtype')
  expect(text).toContain('q8_0')
})
