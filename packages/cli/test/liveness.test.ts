/** Do requests of a dead, frozen or replaced process fail soon, by its name, and does everything go on when it is back? */
import { once } from 'node:events'
import { afterEach, beforeAll, afterAll, expect, test } from 'vitest'
import { lastingPort } from '../../core/test/support/port.ts'
import { complete, pageGauges, patience, post, Process } from './support/cluster.ts'
import { startUp } from './support/up.ts'

const engine = ['--context-length', '1600', '--chunked-prefill-size', '32']
const quick = [
  '--deadline',
  'ping=300,peerSilent=2500,hello=8000,probe=1500,transfer=3000,linger=4000,drain=1000,recycle=1000',
]

type Mode = 'prefill' | 'decode'

/** Where the one that is given was, or at ports that nobody takes while it is gone: those of 0 could become a stranger's. */
async function start(mode: Mode, at?: Process): Promise<Process> {
  const port = at ? new URL(at.url).port : String(await lastingPort())
  const bootstrap = at ? at.bootstrapPort : await lastingPort()
  return Process.start([
    ...['serve', '--disaggregation-mode', mode, '--instance', `${mode}-1`, ...engine, ...quick],
    ...['--port', port, '--disaggregation-bootstrap-port', String(bootstrap)],
  ])
}

let alone: Process
const closing: (() => Promise<void> | void)[] = []

beforeAll(async () => {
  alone = await Process.start(['serve', '--port', '0', ...engine])
}, patience)
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close()
}, patience)
afterAll(() => alone.stop(), patience)

async function startCluster() {
  const workers = { prefill: await start('prefill'), decode: await start('decode') }
  const router = await Process.start([
    ...['router', '--port', '0', '--decode', workers.decode.url],
    ...['--prefill', `${workers.prefill.url},${String(workers.prefill.bootstrapPort)}`],
    ...['--worker-timeout', '3'],
  ])
  closing.push(async () => {
    await Promise.all([workers.prefill, workers.decode, router].map((one) => one.stop()))
  })
  return { workers, router }
}

type Cluster = Awaited<ReturnType<typeof startCluster>>

/** Ids of ordinary tokens, the same in every run. */
const prompt = (length: number) =>
  Array.from({ length }, (_, i) => 300 + ((length * 131 + i * i * 17 + i * 7) % 40_000))

/** A prompt whose cache moves in a few dozen chunks. */
const long = { prompt: prompt(1_200), max_tokens: 4, temperature: 0, stream: false }
const short = { prompt: prompt(40), max_tokens: 6, temperature: 0, stream: true }

interface Failure {
  readonly code: string
  readonly phase: string
  readonly peer: string
  readonly retryable: boolean
}

/** Both legs of one request without a router, so that each worker's own words are heard. */
function legs({ workers }: Cluster, room: number) {
  const where = {
    ...{ bootstrap_host: '127.0.0.1', bootstrap_port: workers.prefill.bootstrapPort },
    bootstrap_room: room,
  }
  const leg = (mode: Mode) => {
    const answer = post(workers[mode].url, { ...long, ...where }).then(async (response) => {
      const { error } = (await response.json()) as { error?: Failure }
      return { status: response.status, ...error }
    })
    answer.catch(() => undefined)
    return answer
  }
  return { prefill: leg('prefill'), decode: leg('decode') }
}

const other = (mode: Mode): Mode => (mode === 'prefill' ? 'decode' : 'prefill')

/** The next request is answered, with the tokens of one process. */
async function expectEqual(url: string, question = short): Promise<void> {
  const [split, whole] = await Promise.all([complete(url, question), complete(alone.url, question)])
  expect(split.tokens).toEqual(whole.tokens)
}

async function expectAllPagesFree(...workers: readonly Process[]): Promise<void> {
  for (const worker of workers) {
    await expect
      .poll(() => pageGauges(worker), { timeout: patience })
      .toMatchObject({ leased: 0, quarantined: 0 })
  }
}

test.each(['prefill', 'decode'] as const)(
  'requests of a killed %s fail by its name, and a new one behind its address is used without restarting the other',
  { timeout: 3 * patience },
  async (victim) => {
    const cluster = await startCluster()
    const { workers, router } = cluster
    await expectEqual(router.url)
    const answers = legs(cluster, 41)
    await workers.prefill.event(({ name, room }) => name === 'chunk.sent' && room === '41')
    const survivor = workers[other(victim)]
    const killedAt = performance.now()
    workers[victim].signal('SIGKILL')
    expect(await answers[other(victim)]).toMatchObject({
      // Prefill has sent its headers long before.
      status: victim === 'decode' ? 200 : 503,
      code: 'ERR_KVX_PEER_LOST',
      phase: 'transfer',
      peer: expect.stringContaining(`${victim}-1`) as string,
      retryable: true,
    })
    expect(performance.now() - killedAt).toBeLessThan(15_000)
    await expectAllPagesFree(survivor)

    workers[victim] = await start(victim, workers[victim])
    await expectEqual(router.url)
    await expectAllPagesFree(workers.prefill, workers.decode)
  },
)

test.each(['prefill', 'decode'] as const)(
  'requests of a frozen %s fail by its name within the deadlines, and once it goes on it is used again',
  { timeout: 3 * patience },
  async (victim) => {
    const cluster = await startCluster()
    const { workers, router } = cluster
    await expectEqual(router.url)
    const answers = legs(cluster, 42)
    await workers.prefill.event(({ name, room }) => name === 'chunk.sent' && room === '42')
    const frozenAt = performance.now()
    workers[victim].signal('SIGSTOP')
    expect(await answers[other(victim)]).toMatchObject({
      phase: 'transfer',
      peer: expect.stringContaining(`${victim}-1`) as string,
      retryable: true,
    })
    expect(performance.now() - frozenAt).toBeLessThan(15_000)

    workers[victim].signal('SIGCONT')
    // It learns that its half of the request is over as well.
    expect(await answers[victim]).toMatchObject({
      code: expect.stringContaining('ERR_KVX') as string,
    })
    await expectAllPagesFree(workers.prefill, workers.decode)
    await expectEqual(router.url)
  },
)

test(
  'a request that a frozen decode never answers ends with its name or address, and later it is used again',
  { timeout: 2 * patience },
  async () => {
    const { workers, router } = await startCluster()
    await expectEqual(router.url)
    workers.decode.signal('SIGSTOP')
    const response = await post(router.url, short)
    expect(response.status).toBe(503)
    const { error } = (await response.json()) as { error: Failure }
    // Prefill notices it by the silence of its control connection, the router by that of its HTTP server.
    expect(['decode-1', workers.decode.url]).toContain(error.peer)
    expect(error).toMatchObject({ retryable: true, phase: expect.any(String) as string })
    workers.decode.signal('SIGCONT')
    await expect
      .poll(async () => (await post(router.url, short)).status, { timeout: patience })
      .toBe(200)
    await expectAllPagesFree(workers.prefill, workers.decode)
  },
)

test(
  'when the router is killed, both workers give back everything',
  { timeout: 2 * patience },
  async () => {
    const { workers, router } = await startCluster()
    const answer = post(router.url, long)
    const broken = expect(answer).rejects.toThrow()
    const sent = await workers.prefill.event(({ name }) => name === 'chunk.sent')
    router.signal('SIGKILL')
    await broken
    for (const worker of [workers.prefill, workers.decode]) {
      await worker.event(({ name, room }) => name === 'request.cancelled' && room === sent.room)
    }
    await expectAllPagesFree(workers.prefill, workers.decode)
  },
)

test(
  'a worker that gets SIGTERM lets a running answer end whole, refuses new requests, and exits with 0',
  { timeout: 2 * patience },
  async () => {
    const { workers, router } = await startCluster()
    const { decode } = workers
    const question = { ...short, max_tokens: 120 }
    const running = complete(router.url, question)
    await decode.event(({ name }) => name === 'token')
    decode.signal('SIGTERM')
    await decode.event(({ name }) => name === 'worker.draining')
    const refused = await post(decode.url, short)
    expect(refused.status).toBe(503)
    expect(refused.headers.get('retry-after')).toBe('1')
    expect(await refused.json()).toMatchObject({
      error: { code: 'ERR_KVX_DRAINING', retryable: true },
    })
    const health = await fetch(`${decode.url}/health`)
    expect(health.status).toBe(503)
    expect(await health.json()).toEqual({ status: 'draining' })
    expect((await running).tokens).toEqual((await complete(alone.url, question)).tokens)
    expect(await decode.gone).toBe(0)
  },
)

test.each([
  ['a second SIGTERM', '600', 143],
  ['its deadline', '0.2', 0],
])(
  'draining ends at once with %s, and what still runs is cut',
  { timeout: 2 * patience },
  async (_, seconds, code) => {
    const worker = await Process.start([
      ...['serve', '--port', '0', '--drain-timeout', seconds, ...engine],
    ])
    closing.push(() => worker.stop())
    const running = complete(worker.url, { ...short, max_tokens: 1_500 })
    const cut = expect(running).rejects.toThrow()
    await worker.event(({ name }) => name === 'token')
    worker.signal('SIGTERM')
    await worker.event(({ name }) => name === 'worker.draining')
    if (code !== 0) worker.signal('SIGTERM')
    expect(await worker.gone).toBe(code)
    await cut
  },
)

/** `kvx up` with two workers of each kind. */
/** In turns: by their caches prompts would go to whom had them before, and to nobody who has started anew. */
async function startTwoOfEach() {
  const flags = ['--prefill', '2', '--decode', '2', '--max-running-requests', '2', ...engine]
  const started = await startUp(...flags, '--policy', 'round_robin', ...quick)
  closing.push(async () => {
    const { up } = started
    if (up.exitCode !== null || up.signalCode !== null) return
    up.kill('SIGINT')
    await once(up, 'exit')
  })
  return started
}

test(
  'a prefill and a decode worker that end in order, one after the other, cost no request',
  { timeout: 3 * patience },
  async () => {
    const { url, workers, says } = await startTwoOfEach()
    let asked = 0
    let over = false
    const lane = async () => {
      while (!over) {
        const { prompt: ids, ...rest } = short
        const response = await post(url, {
          ...rest,
          prompt: [...ids, 300 + asked++],
          stream: false,
        })
        expect(await response.json()).not.toHaveProperty('error')
      }
    }
    const lanes = [lane(), lane(), lane()]
    const restart = async (name: string) => {
      process.kill(workers.get(name)?.pid ?? 0, 'SIGTERM')
      await says(new RegExp(`^kvx: ${name} ended by itself \\(exit code 0\\)`))
      await says(new RegExp(`^kvx: ${name} is ready again`))
    }
    try {
      await Promise.race([Promise.all(lanes), restart('prefill-2').then(() => restart('decode-1'))])
    } finally {
      over = true
    }
    await Promise.all(lanes)
  },
)

test(
  'two prefill and two decode workers answer many prompts with the tokens of one process, all of them work, a killed one is started again, and SIGTERM lets a running answer end',
  { timeout: 5 * patience },
  async () => {
    const { up, url, workers, says } = await startTwoOfEach()
    const names = ['decode-1', 'decode-2', 'prefill-1', 'prefill-2']
    expect([...workers.keys()].sort()).toEqual(names)
    const questions = Array.from({ length: 8 }, (_, i) => ({
      ...{ prompt: prompt(10 + 12 * i), max_tokens: 3 + (i % 3), stream: i % 2 === 0 },
      ...(i % 3 === 0 ? { temperature: 0.8, seed: i } : { temperature: 0 }),
    }))
    const whole = await Promise.all(questions.map((question) => complete(alone.url, question)))
    const askAll = async () => {
      const split = await Promise.all(questions.map((question) => complete(url, question)))
      expect(split.map(({ tokens }) => tokens)).toEqual(whole.map(({ tokens }) => tokens))
    }
    const transfers = async (worker: { url: string } | undefined) => {
      const metrics = await (await fetch(`${worker?.url ?? ''}/metrics`)).text()
      return Number(/^kvx_transfers_total\{result="success"\} (\d+)/m.exec(metrics)?.[1] ?? 0)
    }
    await askAll()
    for (const [name, worker] of workers) expect(await transfers(worker), name).toBeGreaterThan(0)

    const before = workers.get('prefill-1')
    if (before === undefined) throw new Error('prefill-1 has not said where it is')
    process.kill(before.pid, 'SIGKILL')
    await says(/^kvx: prefill-1 ended by itself \(signal SIGKILL\) and is started again/)
    // The other one serves meanwhile.
    await askAll()
    await says(/^kvx: prefill-1 is ready again at http/)
    const after = workers.get('prefill-1')
    expect(after?.url).toBe(before.url)
    expect(after?.pid).not.toBe(before.pid)
    const used = async () => {
      await askAll()
      return transfers(after)
    }
    await expect.poll(used, { timeout: 2 * patience }).toBeGreaterThan(0)

    const running = await post(url, { ...short, max_tokens: 40 })
    const reader = (running.body as ReadableStream<Uint8Array>).getReader()
    let text = new TextDecoder().decode((await reader.read()).value)
    up.kill('SIGTERM')
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      text += new TextDecoder().decode(part.value)
    }
    expect(text.trimEnd().endsWith('data: [DONE]')).toBe(true)
    expect(await once(up, 'exit')).toEqual([0, null])
  },
)
