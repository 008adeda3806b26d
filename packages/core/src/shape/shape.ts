/**
 * What a model's cache is, whichever rank holds which part of it and wherever that lies. Both sides state the same shape;
 * `checkSameShape` names the first field in which they do not.
 */
export interface CacheShape {
  /** Identifies the weights, best by a digest of their content. 1 to 200 characters. */
  readonly model: string
  /** What else decides the numbers in a cache, by name. At most 64, of at most 200 characters. */
  readonly settings?: Readonly<Record<string, string>>
  /** Layers that pipeline stages divide: those of the model, and after them those of a draft model. */
  readonly layers: number
  /** With names that differ. */
  readonly components: readonly ComponentShape[]
}

/** Tensors that are addressed alike: one list of pages, or of slots, serves all of them. */
export interface ComponentShape {
  /** `kv`, `draft`, `index`, `scales`, `swa`, `mamba`, …: any name, none is special. */
  readonly name: string
  /**
   * `tokens`: by pages of a fixed number of tokens. `request`: by slots, the same number of them for a request on both
   * sides, whatever its length (the state of Mamba).
   */
  readonly addressed: 'tokens' | 'request'
  /** Sliding-window attention: only the last `window` tokens of a prompt are needed. Absent: all are. */
  readonly window?: number
  /** Those of all layers, in the order in which they are counted. */
  readonly tensors: readonly TensorShape[]
}

/** One part of one layer: rows of `units · unitBytes` bytes. */
export interface TensorShape {
  /** From 0; below `CacheShape.layers`. */
  readonly layer: number
  /** `k`, `v`, `latent`, `conv.x`, …: tells apart what a layer has of one component. */
  readonly part: string
  /** `f16`, `bf16`, `f32`, `fp8_e4m3`, `q8_0`, …: compared, never interpreted. */
  readonly dtype: string
  /**
   * What tensor parallelism divides: KV heads, or the channels of a state. Fewer units than ranks: several ranks hold
   * copies of a unit. 1: every rank has the whole (the latent of MLA, an index).
   */
  readonly units: number
  /** Bytes of one unit in one row. */
  readonly unitBytes: number
  /** Bytes of one element; only needed where a rank stores `[unit][element][row]`. */
  readonly elementBytes?: number
  /** Addressed by tokens: tokens that share a row (block scales, compressed caches). Default 1. */
  readonly tokensPerRow?: number
  /** Addressed by request: rows of a slot. Default 1. */
  readonly rows?: number
}

/** Characters of a name: of a model, a component, a dtype, an instance, a backend. */
export const maxNameLength = 200

/** Names a tensor in messages. */
export function tensorName(
  component: string,
  { layer, part }: Pick<TensorShape, 'layer' | 'part'>,
): string {
  return `${component} layer ${String(layer)} ${part}`
}
