import { KvxError } from '@kvx/contract'

/** Bytes of one element of V, and of K unless that is quantized: f16. */
export const elementBytes = 2

/** What K is kept as. Quantized, 32 elements are a block of a scale (f16) and a byte each; llama.cpp quantizes V only with flash attention. */
export type KvCacheDtype = 'f16' | 'q8_0'
export const kvCacheDtypes: readonly KvCacheDtype[] = ['f16', 'q8_0']
const block = { elements: 32, bytes: 34 }
/** Bytes of one element of a recurrent state: f32. */
export const stateElementBytes = 4

/** What of a model decides how its cache lies in memory. */
export interface Geometry {
  readonly layers: number
  /** In the order in which llama.cpp saves them. */
  readonly caches: readonly (AttentionCache | RecurrentCache)[]
}

/** K and V of some layers, which are alike: a row for every token. */
export interface AttentionCache {
  readonly kind: 'attention'
  readonly component: 'kv' | 'swa'
  /** Sliding-window attention: llama.cpp saves the last so many tokens only. */
  readonly window?: number
  /** Ascending; may be none. */
  readonly layers: readonly number[]
  /** KV heads. */
  readonly heads: number
  /** Elements of one head of K and of V. Latent attention has no V: 0. */
  readonly keyDim: number
  readonly valueDim: number
  readonly keyDtype: KvCacheDtype
}

/** The state of Mamba in some layers: two rows for a sequence, whatever its length. */
export interface RecurrentCache {
  readonly kind: 'recurrent'
  readonly component: 'mamba'
  readonly layers: readonly number[]
  /** Parts of the row that holds the last inputs of the convolution, one behind the other. */
  readonly convolution: readonly StatePart[]
  /** Parts of the row that holds the state of the scan. */
  readonly scan: readonly StatePart[]
}

export interface StatePart {
  readonly part: string
  /** Channels, heads or groups. */
  readonly units: number
  readonly unitElements: number
}

/** Bytes of K and of V of one token in one layer. */
export function keyRowBytes(cache: AttentionCache): number {
  return cache.heads * keyBytes(cache)
}

/** Of K of one head. */
export function keyBytes({ keyDim, keyDtype }: AttentionCache): number {
  return keyDtype === 'f16' ? keyDim * elementBytes : (keyDim / block.elements) * block.bytes
}

/**
 * The same caches with another type of K.
 *
 * @throws KvxError `ERR_KVX_INVALID_OPTION` when blocks do not divide the heads
 */
export function withKeyDtype(geometry: Geometry, keyDtype: KvCacheDtype): Geometry {
  const caches = geometry.caches.map((cache) => {
    if (cache.kind !== 'attention') return cache
    if (keyDtype === 'f16' || cache.keyDim % block.elements === 0) return { ...cache, keyDtype }
    throw new KvxError(
      'ERR_KVX_INVALID_OPTION',
      `The cache dtype ${keyDtype} has blocks of ${String(block.elements)} elements, which do not divide the ${String(cache.keyDim)} of this model's heads: use f16.`,
      { phase: 'open' },
    )
  })
  return { ...geometry, caches }
}

export function valueRowBytes({ heads, valueDim }: AttentionCache): number {
  return heads * valueDim * elementBytes
}

/** Number of the first of `n` tokens that a sequence still needs: the ones before it are out of the window. */
export function firstNeeded({ window }: Pick<AttentionCache, 'window'>, n: number): number {
  return window === undefined ? 0 : Math.max(0, n - window)
}

/** Whether some layers have a sliding window. */
export function hasWindow({ caches }: Geometry): boolean {
  return caches.some((cache) => cache.kind === 'attention' && cache.window !== undefined)
}

/** What a GGUF file says of its architecture: its keys without the name of the architecture, nested at each dot. */
export type Metadata = Readonly<Record<string, unknown>>

/**
 * Architectures of which some layers have a sliding window: of `every` layers in turn all but the last, unless the file
 * says which. llama.cpp knows the same by heart. The window is optional where the file need not have one.
 */
const windowed: Readonly<Record<string, { every: number; window?: number; optional?: true }>> = {
  gemma2: { every: 2, window: 4096 },
  gemma3: { every: 6, optional: true },
  cohere2: { every: 4 },
  'gpt-oss': { every: 2 },
  olmo2: { every: 4, optional: true },
}

/** Architectures with the state of Mamba, and which layers have that, and which attention. */
const recurrent: Readonly<
  Record<string, { form: 1 | 2; layers: 'all' | 'hybrid' | 'both' | 'some' }>
> = {
  mamba: { form: 1, layers: 'all' },
  mamba2: { form: 2, layers: 'all' },
  // Layers without KV heads are recurrent, all others have attention.
  jamba: { form: 1, layers: 'hybrid' },
  granitehybrid: { form: 2, layers: 'hybrid' },
  // The same, of those layers that have no feed-forward network.
  nemotron_h: { form: 2, layers: 'some' },
  'falcon-h1': { form: 2, layers: 'both' },
}

/**
 * The caches of a model, as far as its metadata tells. llama.cpp has the last word: `checkState`.
 *
 * @throws KvxError `ERR_KVX_MODEL` when kvx cannot move such a cache, or a fact is missing
 */
export function geometryOf(architecture: string, metadata: Metadata): Geometry {
  const facts = new Facts(architecture, metadata)
  const drafts = metadata.nextn_predict_layers === undefined ? 0 : facts.one('nextn_predict_layers')
  const layers = facts.one('block_count') - drafts
  const all = Array.from({ length: layers }, (_, layer) => layer)
  const mamba = Object.hasOwn(recurrent, architecture) ? recurrent[architecture] : undefined
  if (mamba) {
    const { attention, state } = dividedLayers(facts, all, mamba.layers)
    const kept = mamba.form === 1 ? firstMamba(facts) : secondMamba(facts)
    return {
      layers,
      caches: [
        ...(mamba.layers === 'all' ? [] : [attentionOf(facts, 'kv', attention)]),
        { kind: 'recurrent', component: 'mamba', layers: state, ...kept },
      ],
    }
  }
  const sliding = slidingLayers(facts, all)
  if (!sliding) return { layers, caches: [attentionOf(facts, 'kv', all)] }
  const rest = all.filter((layer) => !sliding.layers.includes(layer))
  const { window } = sliding
  return {
    layers,
    caches: [
      attentionOf(facts, 'kv', rest),
      { ...attentionOf(facts, 'swa', sliding.layers), window },
    ],
  }
}

function attentionOf(
  facts: Facts,
  component: AttentionCache['component'],
  layers: readonly number[],
): AttentionCache {
  const headCount = facts.alike('attention.head_count')
  const heads = facts.has('attention.head_count_kv')
    ? facts.alike('attention.head_count_kv')
    : headCount
  const usual = (): number => facts.one('embedding_length') / headCount
  const dim = (key: string): number => (facts.has(key) ? facts.one(key) : usual())
  const keyDim = dim('attention.key_length')
  const valueDim = facts.has('attention.key_length_mla') ? 0 : dim('attention.value_length')
  if (!Number.isSafeInteger(keyDim) || !Number.isSafeInteger(valueDim)) {
    throw facts.refused('its heads do not divide its embedding length')
  }
  return { kind: 'attention', component, layers, heads, keyDim, valueDim, keyDtype: 'f16' }
}

function slidingLayers(
  facts: Facts,
  all: readonly number[],
): { window: number; layers: readonly number[] } | undefined {
  const { architecture } = facts
  const rule = Object.hasOwn(windowed, architecture) ? windowed[architecture] : undefined
  // Other architectures do without, whatever the file says (phi3), or their states do not pass the check.
  if (!rule) return undefined
  const key = 'attention.sliding_window'
  const given = facts.has(key)
  if (rule.optional && (!given || facts.get(key) === 0)) return undefined
  const window = given || rule.window === undefined ? facts.one(key) : rule.window
  const pattern = facts.get('attention.sliding_window_pattern')
  if (Array.isArray(pattern)) {
    return { window, layers: all.filter((layer) => Number(pattern[layer]) !== 0) }
  }
  const every = pattern === undefined ? rule.every : Number(pattern)
  return { window, layers: all.filter((layer) => every === 0 || layer % every < every - 1) }
}

function dividedLayers(
  facts: Facts,
  all: readonly number[],
  rule: 'all' | 'hybrid' | 'both' | 'some',
): { attention: readonly number[]; state: readonly number[] } {
  if (rule === 'all') return { attention: [], state: all }
  if (rule === 'both') return { attention: all, state: all }
  const without = (key: string) => (layer: number) => facts.ofLayer(key, layer) === 0
  const counted = rule === 'some' ? all.filter(without('feed_forward_length')) : all
  const state = counted.filter(without('attention.head_count_kv'))
  return { attention: counted.filter((layer) => !state.includes(layer)), state }
}

type Kept = Pick<RecurrentCache, 'convolution' | 'scan'>

/** Mamba: channels by themselves. */
function firstMamba(facts: Facts): Kept {
  const [columns, channels, state] = sizes(facts)
  return {
    convolution: [{ part: 'conv.x', units: channels, unitElements: columns }],
    scan: [{ part: 'ssm', units: channels, unitElements: state }],
  }
}

/** Mamba 2: channels in heads, with B and C of groups of heads beside them in the convolution. */
function secondMamba(facts: Facts): Kept {
  const [columns, channels, state] = sizes(facts)
  const heads = facts.one('ssm.time_step_rank')
  const groups = facts.one('ssm.group_count')
  const width = channels / heads
  if (!Number.isSafeInteger(width)) throw facts.refused('its heads do not divide ssm.inner_size')
  return {
    convolution: [
      { part: 'conv.x', units: heads, unitElements: width * columns },
      { part: 'conv.b', units: groups, unitElements: state * columns },
      { part: 'conv.c', units: groups, unitElements: state * columns },
    ],
    scan: [{ part: 'ssm', units: heads, unitElements: width * state }],
  }
}

/** Columns that the convolution keeps (one less than it sees), channels, and elements of the state of one channel. */
function sizes(facts: Facts): [columns: number, channels: number, state: number] {
  const columns = facts.one('ssm.conv_kernel') - 1
  if (columns < 1) throw facts.refused('its convolution keeps nothing')
  return [columns, facts.one('ssm.inner_size'), facts.one('ssm.state_size')]
}

class Facts {
  readonly architecture: string
  readonly #metadata: Metadata

  constructor(architecture: string, metadata: Metadata) {
    this.architecture = architecture
    this.#metadata = metadata
  }

  get(key: string): unknown {
    return key
      .split('.')
      .reduce<unknown>(
        (value, part) =>
          typeof value === 'object' && value !== null && Object.hasOwn(value, part)
            ? (value as Metadata)[part]
            : undefined,
        this.#metadata,
      )
  }

  has(key: string): boolean {
    return this.get(key) !== undefined
  }

  one(key: string): number {
    return this.#positive(key, this.get(key))
  }

  /** The value of all layers that have the thing. */
  alike(key: string): number {
    const value = this.get(key)
    const each: unknown[] = Array.isArray(value)
      ? value.filter((one) => Number(one) !== 0)
      : [value]
    const [first] = each
    if (!each.every((one) => one === first)) {
      throw this.refused(`its layers differ from each other in ${key}`)
    }
    return this.#positive(key, first)
  }

  ofLayer(key: string, layer: number): number {
    const value = this.get(key)
    return Number(Array.isArray(value) ? value[layer] : value)
  }

  refused(why: string): KvxError {
    return unsupported(this.architecture, why)
  }

  #positive(key: string, value: unknown): number {
    const number = Number(value)
    if (Number.isSafeInteger(number) && number > 0) return number
    throw this.refused(`its metadata has no usable ${key}`)
  }
}

/** Whether the recurrent state of an architecture is known. */
export function knowsState(architecture: string): boolean {
  return Object.hasOwn(recurrent, architecture)
}

export function unsupported(architecture: string, why: string): KvxError {
  return new KvxError(
    'ERR_KVX_MODEL',
    `The model (${architecture}) cannot be served in pages: ${why}. The README of @kvx/llama lists those that can.`,
    { phase: 'open' },
  )
}
