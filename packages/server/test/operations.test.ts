/** What docs/operations.md and docs/grafana.json say of metrics, against the metrics; and what a request leaves in them. */
import { readFile } from 'node:fs/promises'
import { expect, test } from 'vitest'
import { silentLog } from '@kvx/contract'
import { routerMetrics } from '../src/router/metrics.ts'
import { EventLog } from '../src/worker/events.ts'
import { Journal, summary, type RequestRecord } from '../src/worker/journal.ts'
import { workerMetrics } from '../src/worker/metrics.ts'

const read = (name: string) => readFile(new URL(`../../../docs/${name}`, import.meta.url), 'utf8')
const namesOf = ({ registry }: Pick<ReturnType<typeof workerMetrics>, 'registry'>) =>
  registry.getMetricsAsArray().map(({ name }) => name)

test('the page on operation names every metric of workers and routers', async () => {
  const text = (await read('operations.md')) + (await read('router.md'))
  const names = [...namesOf(workerMetrics()), ...namesOf(routerMetrics([]))]
  const own = names.filter((name) => name.startsWith('kvx_'))
  expect(own.filter((name) => !text.includes(`\`${name}\``))).toEqual([])
})

test('the dashboard for Grafana asks for metrics that there are', async () => {
  const asked = [...(await read('grafana.json')).matchAll(/\b((?:kvx|process|nodejs)_\w+)[{[]/g)]
  const names = namesOf(workerMetrics())
  const known = new Set(names.flatMap((name) => [name, `${name}_bucket`]))
  expect(asked.length).toBeGreaterThan(20)
  expect(asked.map(([, name = '']) => name).filter((name) => !known.has(name))).toEqual([])
})

/** A worker's events, and what they leave. */
function watched() {
  const records = new Set<RequestRecord>()
  const journal: Journal = new Journal((record, event) => {
    records.add(record)
    metrics.observe(record, event)
  })
  const metrics = workerMetrics({ journal })
  const events = new EventLog(silentLog, (event) => {
    journal.observe(event)
  })
  const valueOf = async (name: string, labels: object = {}) => {
    const metric = await metrics.registry.getSingleMetric(name)?.get()
    return metric?.values.find((value) => {
      const { metricName = name } = value as { metricName?: string }
      const fits = Object.entries(labels).every(([key, of]) => value.labels[key] === of)
      return fits && (metricName === name || metricName === `${name}_count`)
    })?.value
  }
  return { journal, events, records, valueOf }
}

test('the life of a request at decode is told phase by phase, and its times are counted once', async () => {
  const { journal, events, valueOf } = watched()
  const say = events.of('cmpl-1', 7n)
  const phase = async () => {
    for (const name of ['bootstrap', 'pages', 'model', 'transfer', 'running']) {
      if ((await valueOf('kvx_num_reqs', { phase: name })) === 1) return name
    }
    return undefined
  }
  say('request.received', { tokens: 100 })
  say('room.opened')
  expect(await phase()).toBe('bootstrap')
  say('pages.leased', { pages: 5, prefixTokens: 32 })
  expect(await phase()).toBe('bootstrap')
  say('room.reserved')
  expect(await phase()).toBe('transfer')
  say('transfer.complete', { bytes: 1_000, ms: 2, queueMs: 1, backend: 'shm' })
  for (const position of [1, 2, 3]) say('token', { position, sample: 0 })
  expect(await phase()).toBe('running')
  events.of('cmpl-1', 7n)('request.done')
  expect(await phase()).toBeUndefined()
  expect(await valueOf('kvx_time_to_first_token_seconds')).toBe(1)
  expect(await valueOf('kvx_inter_token_latency_seconds')).toBe(2)
  expect(await valueOf('kvx_prompt_tokens_total')).toBe(100)
  expect(await valueOf('kvx_cached_tokens_total')).toBe(32)
  expect(await valueOf('kvx_generation_tokens_total')).toBe(3)
  expect(await valueOf('kvx_transfer_bytes_total')).toBe(1_000)
  const [record] = journal.records()
  expect(record && summary(record)).toMatchObject({
    ...{ request: 'cmpl-1', room: '7', tokens: 100, cachedTokens: 32, generated: 3 },
    ...{ bytes: 1_000, wireMs: 2, queueMs: 1, backend: 'shm' },
  })
})

test('a batch has a record of each prompt, and its end ends all', () => {
  const { journal, events } = watched()
  for (const room of [1n, 2n]) events.of('gen-1', room)('request.received', { tokens: 5 })
  events.of('gen-1', 2n)('token', { position: 1, sample: 1 })
  events.of('gen-1', 1n)('request.failed', { code: 'ERR_KVX_TIMEOUT', reason: 'why' })
  events.of('gen-1', 2n)('pages.released')
  expect([...journal.live()]).toEqual([])
  expect(journal.records().map(({ room, generated, error }) => [room, generated, error])).toEqual([
    ['1', 0, { code: 'ERR_KVX_TIMEOUT', reason: 'why' }],
    ['2', 1, { code: 'ERR_KVX_TIMEOUT', reason: 'why' }],
  ])
})

test('of requests that have ended the last 200 are remembered', () => {
  const { journal, events } = watched()
  for (let i = 0; i < 250; i++) {
    const say = events.of(`gen-${String(i)}`)
    say('request.received', { tokens: 1 })
    say('request.done')
  }
  expect(
    journal
      .records()
      .map(({ request }) => request)
      .slice(0, 1),
  ).toEqual(['gen-50'])
  expect(journal.records()).toHaveLength(200)
})
