/** Which prefill and decode workers can work together, from what they tell of themselves, and what is wrong with the others. */
import { KvxError } from '@kvx/contract'

/** Of `/server_info`; what a worker does not tell is undefined, and not objected to. */
export interface WorkerInfo {
  readonly mode: string | undefined
  readonly modelName: string | undefined
  /** Of the content of the weights. */
  readonly modelId: string | undefined
  /** What else decides the numbers in the cache. */
  readonly settings: Readonly<Record<string, string>> | undefined
  readonly pageSize: number | undefined
  readonly backend: string | undefined
  readonly contextLength: number | undefined
  /** Of its process: another one has empty caches. */
  readonly pid: number | undefined
  /** Requests that it takes at a time, those that wait counted. */
  readonly capacity: number | undefined
}

export interface Known {
  readonly role: 'prefill' | 'decode'
  readonly url: string
  readonly info: WorkerInfo | undefined
  /** It refuses the router's key. */
  readonly wrongKey?: KvxError | undefined
}

export function readInfo(value: unknown): WorkerInfo {
  const told = (typeof value === 'object' && value !== null ? value : {}) as Record<string, unknown>
  const text = (name: string) => (typeof told[name] === 'string' ? told[name] : undefined)
  const number = (name: string) => (typeof told[name] === 'number' ? told[name] : undefined)
  const { kv_settings: settings } = told
  const [running, queued] = [number('max_running_requests'), number('max_queued_requests')]
  return {
    mode: text('disaggregation_mode'),
    modelName: text('served_model_name'),
    modelId: text('model_id'),
    settings:
      typeof settings === 'object' && settings !== null
        ? Object.fromEntries(Object.entries(settings).map(([k, v]) => [k, String(v)]))
        : undefined,
    pageSize: number('page_size'),
    backend: text('transfer_backend'),
    contextLength: number('context_length'),
    pid: number('pid'),
    capacity: running === undefined || queued === undefined ? undefined : running + queued,
  }
}

/** Why a worker cannot do what it was given to the router for, or undefined. */
export function wrongAlone({ role, url, info, wrongKey }: Known): KvxError | undefined {
  if (wrongKey !== undefined) return wrongKey
  const mode = info?.mode
  if (mode === undefined || mode === role) return undefined
  const remedy =
    mode === 'null'
      ? `start it with --disaggregation-mode ${role}`
      : `give its address with --${mode}, or start it with --disaggregation-mode ${role}`
  return new KvxError(
    'ERR_KVX_INVALID_OPTION',
    `The worker at ${url} was given to the router as a ${role} worker, but its --disaggregation-mode is ${mode}: ${remedy}.`,
    { phase: 'open', peer: url },
  )
}

/** Why these two cannot work together, or undefined. */
export function misfit(prefill: Known, decode: Known): KvxError | undefined {
  const wrong = wrongAlone(prefill) ?? wrongAlone(decode)
  if (wrong !== undefined) return wrong
  const [p, d] = [prefill.info, decode.info]
  if (p === undefined || d === undefined) return undefined
  const say = (
    code: 'ERR_KVX_LAYOUT_MISMATCH' | 'ERR_KVX_PAGE_SIZE_MISMATCH' | 'ERR_KVX_BACKEND_MISMATCH',
    what: string,
    [ofPrefill, ofDecode]: readonly [string, string],
    remedy: string,
  ) =>
    new KvxError(
      code,
      `${what}: ${ofPrefill} at prefill (${prefill.url}), ${ofDecode} at decode (${decode.url}). ${remedy}`,
      { phase: 'hello', peer: decode.url },
    )
  if (differ(p.modelId, d.modelId)) {
    const names = [named(p), named(d)] as const
    const remedy = 'Start both with the same --model, the same file on both sides.'
    return say('ERR_KVX_LAYOUT_MISMATCH', 'The workers serve different models', names, remedy)
  }
  if (differ(p.pageSize, d.pageSize)) {
    const sizes = [`${String(p.pageSize)} tokens`, `${String(d.pageSize)} tokens`] as const
    const remedy = 'Start both with the same --page-size.'
    return say('ERR_KVX_PAGE_SIZE_MISMATCH', 'The page sizes differ', sizes, remedy)
  }
  if (differ(p.backend, d.backend)) {
    const names = [String(p.backend), String(d.backend)] as const
    const remedy = 'Start both with the same --transfer-backend.'
    return say('ERR_KVX_BACKEND_MISMATCH', 'The transfer backends differ', names, remedy)
  }
  for (const name of Object.keys({ ...p.settings, ...d.settings })) {
    if (p.settings === undefined || d.settings === undefined) break
    const values = [p.settings[name] ?? 'none', d.settings[name] ?? 'none'] as const
    if (values[0] === values[1]) continue
    const remedy = 'Start both with the same settings.'
    return say('ERR_KVX_LAYOUT_MISMATCH', `The caches differ in ${name}`, values, remedy)
  }
  return undefined
}

function differ<T>(a: T | undefined, b: T | undefined): boolean {
  return a !== undefined && b !== undefined && a !== b
}

/** Equal names prove nothing, so that the identity is told with them. */
function named({ modelName = 'a model', modelId }: WorkerInfo): string {
  return `${modelName} (${String(modelId).slice(0, 12)})`
}
