/** What a router counts, in Prometheus' format. */
import { Counter, Gauge, Registry } from 'prom-client'
import type { Worker } from './workers.ts'

export type RouterMetrics = ReturnType<typeof routerMetrics>

export function routerMetrics(workers: readonly Worker[]) {
  const registry = new Registry()
  const registers = [registry]
  const requests = new Counter({
    name: 'kvx_router_requests_total',
    help: 'Completions by how they ended: success, failed, or cancelled by the client.',
    labelNames: ['result'],
    registers,
  })
  const failures = new Counter({
    name: 'kvx_failures_total',
    help: 'Failed completions by error code.',
    labelNames: ['code'],
    registers,
  })
  const retries = new Counter({
    name: 'kvx_router_retries_total',
    help: 'Completions that were tried again without a worker that had failed before the first token.',
    registers,
  })
  const local = new Counter({
    name: 'kvx_router_local_prefills_total',
    help: 'Completions whose prompt decode computed itself, as it was short or no prefill worker was well.',
    labelNames: ['reason'],
    registers,
  })
  new Gauge({
    name: 'kvx_router_requests_live',
    help: 'Completions that a worker is working on.',
    labelNames: ['role', 'worker'],
    registers,
    collect() {
      for (const { role, url, live } of workers) this.set({ role, worker: url }, live)
    },
  })
  return { registry, requests, failures, retries, local }
}
