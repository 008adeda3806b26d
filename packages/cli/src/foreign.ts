/** Flags of SGLang that have no meaning here, and what to do instead: who comes from there is told, not left to guess. */
const ranks = 'a worker of kvx is one rank: start more workers and give them all to the router'

export const foreignFlags: Readonly<Record<string, string>> = {
  'disaggregation-decode-tp': ranks,
  'disaggregation-decode-dp': ranks,
  'disaggregation-prefill-pp': ranks,
  'tensor-parallel-size': ranks,
  tp: ranks,
  'data-parallel-size': ranks,
  dp: ranks,
  'pdlb-url': 'workers register nowhere: kvx router takes them with --prefill and --decode',
  'disaggregation-decode-enable-offload-kvcache':
    'the cache lies in host memory already: leave it out',
  'disaggregation-decode-retraction-backup': 'decode retracts no request: leave it out',
  'num-reserved-decode-tokens':
    'a running request has pages for its whole context: use --context-length and --max-running-requests',
  'disaggregation-decode-extra-slots': 'use --max-running-requests and --max-queued-requests',
  'disaggregation-decode-polling-interval': 'nothing is polled: leave it out',
  'optimistic-prefill-attempts': 'prefill computes when decode has its pages: leave it out',
  'disaggregation-decode-allocation-policy':
    'decode has its pages before prefill computes: leave it out',
  'mini-lb': 'this router is one already; --policy random chooses as the mini-lb does',
  'service-discovery': 'give the workers with --prefill and --decode',
  'prometheus-port': 'metrics are at /metrics of --port',
  'worker-startup-timeout-secs':
    'leave it out: workers may start later, and are used as soon as they are there',
  'health-check-interval-secs': 'use --worker-timeout, in which a worker must answer',
  'request-timeout-secs': 'requests are not timed: --worker-timeout ends those of a silent worker',
  'retry-max-retries': 'a request is tried with each worker once: leave it out',
  'disable-retries':
    'a request is tried again only while its client has seen nothing: leave it out',
}
