/** Does an answer through two processes equal that of one, and does every page come back? */
import { afterAll, beforeAll, expect, test } from 'vitest'
import {
  complete,
  pageGauges,
  patience,
  post,
  Process,
  type WorkerEvent,
  startRouter,
} from './support/cluster.ts'

const chunk = 64
const pageBytes = 16 * 23_040
const engine = ['--context-length', '1600', '--chunked-prefill-size', String(chunk)]
const worker = (mode: string, ...more: string[]) => [
  ...['serve', '--disaggregation-mode', mode, '--port', '0'],
  ...['--disaggregation-bootstrap-port', '0', ...engine, ...more],
]

let prefill: Process
let decode: Process
let alone: Process
let router: Process
let processes: Process[] = []
let atRest: Record<string, number>[] = []

beforeAll(async () => {
  processes = await Promise.all(
    ['prefill', 'decode', 'null'].map((mode) => Process.start(worker(mode))),
  )
  ;[prefill, decode, alone] = processes as [Process, Process, Process]
  router = await startRouter(prefill, decode)
  processes.push(router)
  atRest = await Promise.all([prefill, decode].map(pageGauges))
}, patience)

afterAll(async () => {
  await Promise.all(processes.map((one) => one.stop()))
}, patience)

/** Ids of ordinary tokens, the same in every run. */
function prompt(length: number): number[] {
  return Array.from({ length }, (_, i) => 300 + ((length * 131 + i * i * 17 + i * 7) % 40_000))
}

/** Every request that a worker has begun has ended and given its pages back, by its own word. */
async function settled(one: Process): Promise<void> {
  for (const { request } of one.events.filter(({ name }) => name === 'pages.leased')) {
    await one.event((event) => event.name === 'pages.released' && event.request === request)
  }
}

async function expectAllPagesBack(): Promise<void> {
  await Promise.all([prefill, decode].map(settled))
  expect(await Promise.all([prefill, decode].map(pageGauges))).toEqual(atRest)
}

// Around page and chunk borders, and up to many chunks.
const lengths = [
  3, 4, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 66, 80, 97, 112, 128, 129, 130, 1_500,
]

test(
  'twenty prompts, four at a time, streamed or not, greedy or seeded, have the tokens of one process',
  { timeout: 5 * patience },
  async () => {
    const queue = lengths.map((length, i) => ({ length, i }))
    const lane = async () => {
      for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
        const { length, i } = next
        const question = {
          prompt: prompt(length),
          max_tokens: 8 + (i % 5),
          stream: i % 2 === 0,
          ...(i % 4 < 2 ? { temperature: 0 } : { temperature: 0.9, top_p: 0.95, seed: 1_000 + i }),
        }
        const [split, whole] = await Promise.all([
          complete(router.url, question),
          complete(alone.url, { ...question, stream: false }),
        ])
        const label = `${String(length)} tokens, ${JSON.stringify({ ...question, prompt: 0 })}`
        expect(split.tokens, label).toEqual(whole.tokens)
        expect(split.text, label).toBe(whole.text)
        expect(split.finishReason, label).toBe(whole.finishReason)
        expect(split.usage, label).toEqual(whole.usage)
        expect(split.usage.prompt_tokens, label).toBe(length)
        const pages = Math.ceil(length / 16)
        expect(split.kvx.transfer, label).toMatchObject({
          pages,
          bytes: pages * pageBytes,
          backend: 'shm',
        })
        // Decode computed its own tokens and nothing of the prompt.
        const ended = split.finishReason === 'stop' ? 0 : 1
        expect(split.kvx.evaluated_tokens, label).toBe(split.tokens.length - ended)
      }
    }
    await Promise.all([lane(), lane(), lane(), lane()])
    await expectAllPagesBack()
  },
)

test('the first chunk of a long prompt leaves before the last is computed', async () => {
  const since = prefill.events.length
  const question = { prompt: prompt(150), max_tokens: 2, temperature: 0, stream: true }
  await complete(router.url, question)
  const { room } = await prefill.event((event) => event.name === 'transfer.complete', { since })
  const mine = prefill.events.slice(since).filter((event) => event.room === room)
  const at = (fits: (event: WorkerEvent) => boolean) => mine.filter(fits).map((e) => e.sequence)
  const computed = at((event) => event.name === 'chunk.computed')
  const sent = at((event) => event.name === 'chunk.sent')
  expect(computed).toHaveLength(3)
  expect(sent).toHaveLength(3)
  expect(sent[0]).toBeLessThan(computed.at(-1) ?? 0)
  expect(mine.filter(({ name }) => name === 'chunk.sent').map(({ tokens }) => tokens)).toEqual([
    [0, 64],
    [64, 128],
    [128, 150],
  ])
})

test('a stop string ends the answer on both sides alike, and what it hides is not sent', async () => {
  const question = { prompt: 'Count: one, two, three,', max_tokens: 24, temperature: 0 }
  const whole = await complete(alone.url, { ...question, stream: false })
  const stop = whole.text.slice(6, 9)
  for (const stream of [true, false]) {
    const cut = await complete(router.url, { ...question, stop, stream })
    expect(cut.text).toBe(whole.text.slice(0, whole.text.indexOf(stop)))
    expect(cut.finishReason).toBe('stop')
    expect(cut.tokens).toEqual(whole.tokens.slice(0, cut.tokens.length))
  }
})

/** Sends a request whose client leaves once `when` has happened. */
async function leave(url: string, body: object, when: () => Promise<unknown>): Promise<void> {
  const client = new AbortController()
  const response = post(url, body, client.signal).then((answer) => answer.text())
  response.catch(() => undefined)
  await when()
  client.abort()
  await expect(response).rejects.toThrow()
}

test('pages come back when clients leave while prefill waits for decode', async () => {
  const since = prefill.events.length
  await leave(prefill.url, { prompt: prompt(40), bootstrap_room: 1 }, () =>
    prefill.event(({ name, room }) => name === 'request.received' && room === '1', { since }),
  )
  await prefill.event(({ name, room }) => name === 'request.cancelled' && room === '1', { since })
  await expectAllPagesBack()
})

test('pages come back when clients leave while decode waits for prefill', async () => {
  const since = decode.events.length
  const body = {
    prompt: prompt(40),
    bootstrap_host: '127.0.0.1',
    bootstrap_port: prefill.bootstrapPort,
    bootstrap_room: 2,
  }
  await leave(decode.url, body, () =>
    decode.event(({ name, room }) => name === 'room.reserved' && room === '2', { since }),
  )
  await decode.event(({ name, room }) => name === 'request.cancelled' && room === '2', { since })
  await expectAllPagesBack()
})

test.each([true, false])(
  'pages come back when clients leave between two chunks (stream: %s)',
  async (stream) => {
    const since = [prefill.events.length, decode.events.length] as const
    await leave(router.url, { prompt: prompt(400), stream }, () =>
      prefill.event(({ name }) => name === 'chunk.sent', { since: since[0] }),
    )
    await prefill.event(({ name }) => name === 'request.cancelled', { since: since[0] })
    await decode.event(({ name }) => name === 'request.cancelled', { since: since[1] })
    expect(prefill.events.slice(since[0]).some(({ name }) => name === 'transfer.complete')).toBe(
      false,
    )
    await expectAllPagesBack()
  },
)

test('pages come back when clients leave while decode answers', async () => {
  const since = decode.events.length
  await leave(
    router.url,
    { prompt: prompt(20), max_tokens: 1_000, temperature: 1, stream: true },
    () => decode.event(({ name }) => name === 'token', { since }),
  )
  await decode.event(({ name }) => name === 'request.cancelled', { since })
  await expectAllPagesBack()
})

test('after all that, an answer is still right and the counters add up', async () => {
  const question = { prompt: prompt(50), max_tokens: 4, temperature: 0, stream: false }
  const [split, whole] = await Promise.all([
    complete(router.url, question),
    complete(alone.url, question),
  ])
  expect(split.tokens).toEqual(whole.tokens)
  await expectAllPagesBack()
  const text = await (await fetch(`${decode.url}/metrics`)).text()
  expect(text).toMatch(/^kvx_requests_live 0$/m)
  const bytes = Number(/^kvx_transfer_bytes_total (\d+)$/m.exec(text)?.[1])
  expect(bytes % pageBytes).toBe(0)
  expect(bytes).toBeGreaterThan(lengths.length * pageBytes)
})
