/** What a worker counts. Each worker has a registry of its own, so that several live in one process. */
import { Counter, Gauge, Registry } from 'prom-client'
import type { PageCounts } from '@kvx/core'
import type { KvxError } from '@kvx/contract'

export interface WorkerMetrics {
  readonly registry: Registry
  transferred(bytes: number): void
  transferFailed(error: KvxError): void
  requestBegan(): void
  requestEnded(result: 'success' | 'cancelled' | 'failed'): void
  /** Also for requests that were refused before they began. */
  failed(code: string): void
}

/** @param pages counts the pool; a standalone worker has none */
export function workerMetrics(pages: (() => PageCounts) | undefined): WorkerMetrics {
  const registry = new Registry()
  const registers = [registry]
  const transfers = new Counter({
    name: 'kvx_transfers_total',
    help: 'Transfers of one prompt by how they ended: success, failed, aborted.',
    labelNames: ['result'],
    registers,
  })
  const transferBytes = new Counter({
    name: 'kvx_transfer_bytes_total',
    help: 'Bytes of cache in successful transfers.',
    registers,
  })
  const failures = new Counter({
    name: 'kvx_failures_total',
    help: 'Failed requests by error code; those that clients cancelled are not among them.',
    labelNames: ['code'],
    registers,
  })
  const requests = new Counter({
    name: 'kvx_requests_total',
    help: 'Requests by how they ended: success, failed, or cancelled by the client.',
    labelNames: ['result'],
    registers,
  })
  const live = new Gauge({
    name: 'kvx_requests_live',
    help: 'Requests that have not ended.',
    registers,
  })
  new Gauge({
    name: 'kvx_pages',
    help: 'Pages of the cache pool: free, leased to a request, or quarantined because bytes may still land in them.',
    labelNames: ['state'],
    registers,
    collect() {
      const { free, leased, quarantined } = pages?.() ?? { free: 0, leased: 0, quarantined: 0 }
      this.set({ state: 'free' }, free)
      this.set({ state: 'leased' }, leased)
      this.set({ state: 'quarantined' }, quarantined)
    },
  })
  return {
    registry,
    transferred(bytes) {
      transfers.inc({ result: 'success' })
      transferBytes.inc(bytes)
    },
    transferFailed(error) {
      transfers.inc({ result: error.code === 'ERR_KVX_ABORTED' ? 'aborted' : 'failed' })
    },
    requestBegan() {
      live.inc()
    },
    requestEnded(result) {
      live.dec()
      requests.inc({ result })
    },
    failed(code) {
      if (code !== 'ERR_KVX_ABORTED') failures.inc({ code })
    },
  }
}
