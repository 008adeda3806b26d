/**
 * A request as spans of OpenTelemetry, when it has ended. Without an SDK in the process, which the host sets up, nothing happens:
 * its API does nothing then.
 */
import { context, propagation, SpanStatusCode, trace as traces } from '@opentelemetry/api'
import type { RequestRecord } from './journal.ts'

const tracer = traces.getTracer('@kvx/server')

/** @param mode of the worker */
export function trace(record: RequestRecord, mode: string): void {
  const { received, ended = 0, moments, traceparent, transfer, error } = record
  const at = (ms: number) => received + ms
  const caller = propagation.extract(context.active(), traceparent ? { traceparent } : {})
  const whole = tracer.startSpan(
    `kvx.${mode === 'null' ? 'request' : mode}`,
    {
      startTime: at(0),
      attributes: {
        'kvx.request': record.request,
        'kvx.room': record.room ?? '',
        'kvx.prompt_tokens': record.tokens,
        'kvx.cached_tokens': record.cachedTokens,
        'kvx.generated_tokens': record.generated,
        ...(transfer && {
          'kvx.transfer.bytes': transfer.bytes,
          'kvx.transfer.wire_ms': transfer.ms,
          'kvx.transfer.backend': transfer.backend,
        }),
      },
    },
    caller,
  )
  const inside = traces.setSpan(caller, whole)
  const part = (name: string, from: number | undefined, to: number | undefined) => {
    if (from === undefined || to === undefined || to < from) return
    tracer.startSpan(name, { startTime: at(from) }, inside).end(at(to))
  }
  const { 'pages.leased': leased, 'transfer.complete': arrived, token } = moments
  part('kvx.queue', 0, leased)
  part('kvx.transfer', leased, arrived)
  part('kvx.generate', token, ended)
  if (error) whole.setStatus({ code: SpanStatusCode.ERROR, message: error.code })
  whole.end(at(ended))
}
