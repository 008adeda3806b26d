/** One address in front of prefill and decode workers: a completion becomes two legs with one fate. */
import { silentLog, type Log } from '@kvx/contract'
import { Admission, within } from '../http/drain.ts'
import { listen, makeApp, type Draining, type HttpOptions, type Listening } from '../http/server.ts'
import { addDashboard } from '../dashboard/serve.ts'
import { addAbout } from './about.ts'
import { complete } from './complete.ts'
import { streamOfAll } from './dashboard.ts'
import { Fleet } from './fleet.ts'
import { routerMetrics } from './metrics.ts'
import { cacheAwareDefaults, type CacheAwareSettings, type Policy } from './policy.ts'

export interface RouterOptions extends Partial<CacheAwareSettings> {
  /** Without a port the worker is asked for it. */
  readonly prefill: readonly { readonly url: string; readonly bootstrapPort?: number | undefined }[]
  readonly decode: readonly string[]
  /** Default 127.0.0.1 */
  readonly host?: string
  /** Default 0: any free port. */
  readonly port?: number
  /** How workers of each role are chosen. Default `cache_aware`. */
  readonly prefillPolicy?: Policy | undefined
  readonly decodePolicy?: Policy | undefined
  /** A decode worker computes prompts itself of which at most so many tokens are not in its cache. Default 0. */
  readonly maxLocalPrefillLength?: number | undefined
  /** Milliseconds. A worker that answers nothing for this long is given up. Default 15,000. */
  readonly workerSilentMs?: number
  /** Who may ask it over HTTP, and how. The workers are asked with the same key. */
  readonly http?: HttpOptions
  readonly log?: Log
}

/** @throws KvxError `ERR_KVX_INVALID_OPTION`, `ERR_KVX_ADDRESS_UNAVAILABLE` */
export async function startRouter(options: RouterOptions): Promise<Listening & Draining> {
  const log = options.log ?? silentLog
  const { apiKey } = options.http ?? {}
  const fleet = new Fleet({
    ...{ prefill: options.prefill, decode: options.decode, apiKey, log },
    prefillPolicy: options.prefillPolicy ?? 'cache_aware',
    decodePolicy: options.decodePolicy ?? 'cache_aware',
    maxLocalPrefillLength: options.maxLocalPrefillLength ?? 0,
    cacheThreshold: options.cacheThreshold ?? cacheAwareDefaults.cacheThreshold,
    balanceAbsThreshold: options.balanceAbsThreshold ?? cacheAwareDefaults.balanceAbsThreshold,
    balanceRelThreshold: options.balanceRelThreshold ?? cacheAwareDefaults.balanceRelThreshold,
    silentMs: options.workerSilentMs ?? 15_000,
  })
  const metrics = routerMetrics(fleet.all)
  const app = makeApp(metrics.registry, (code) => {
    if (code !== 'ERR_KVX_ABORTED') metrics.failures.inc({ code })
  })
  const admission = new Admission('router')
  for (const path of ['/v1/completions', '/v1/chat/completions', '/generate']) {
    app.post(path, (c) => admission.run(c, () => complete({ fleet, metrics, log }, c)))
  }
  addAbout(app, { fleet, admission, apiKey })
  addDashboard(app, (c) => streamOfAll(c, fleet.all, apiKey))
  const listening = await listen(app, {
    host: options.host ?? '127.0.0.1',
    port: options.port ?? 0,
    ...{ http: options.http, log },
  })
  return {
    ...listening,
    async drain(deadlineMs) {
      admission.drain()
      listening.endIdle()
      return within(deadlineMs, admission.idle())
    },
    async close() {
      fleet.close()
      await listening.close()
    },
  }
}
