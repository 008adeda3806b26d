/**
 * What known models keep in their caches. Names of fields are those of a model's config.json at Hugging Face; the comment
 * at each number says which field it is.
 */

/** Keys and values of some heads, as in MHA and GQA. */
export interface HeadsBlock {
  readonly kind: 'heads'
  readonly kvHeads: number
  readonly headDim: number
  /** Sliding-window attention. */
  readonly window?: number
}

/** One latent for all heads, as in MLA. */
export interface LatentBlock {
  readonly kind: 'latent'
  readonly rank: number
  readonly ropeDim: number
  /** Sparse attention has an index beside it, of keys of this many numbers; only built when asked for. */
  readonly indexDim: number
}

/** A Mamba-2 layer: its state belongs to a request, not to tokens. */
export interface MambaBlock {
  readonly kind: 'mamba'
  readonly heads: number
  readonly headDim: number
  readonly groups: number
  readonly stateSize: number
  readonly convKernel: number
}

/** A layer without a cache, such as one that is only an MLP. */
export interface EmptyBlock {
  readonly kind: 'none'
}

export type Block = HeadsBlock | LatentBlock | MambaBlock | EmptyBlock

export interface Model {
  /** At Hugging Face. */
  readonly repository: string
  /** In order. */
  readonly blocks: readonly Block[]
  /** The layer of its usual draft model (EAGLE, MTP), where one is known. */
  readonly draft?: HeadsBlock | LatentBlock
}

const heads = (kvHeads: number, headDim: number, window?: number): HeadsBlock => ({
  ...{ kind: 'heads', kvHeads, headDim },
  ...(window !== undefined && { window }),
})

const repeat = (count: number, ...blocks: Block[]): Block[] =>
  Array.from({ length: count }, () => blocks).flat()

const deepseek: LatentBlock = {
  kind: 'latent',
  rank: 512, // kv_lora_rank
  ropeDim: 64, // qk_rope_head_dim
  indexDim: 128, // index_head_dim, of DeepSeek-V3.2
}

const nemotronH: Readonly<Record<string, Block>> = {
  M: {
    kind: 'mamba',
    heads: 128, // mamba_num_heads
    headDim: 64, // mamba_head_dim
    groups: 8, // n_groups
    stateSize: 128, // ssm_state_size
    convKernel: 4, // conv_kernel
  },
  '*': heads(8, 128), // num_key_value_heads, attention_head_dim
  '-': { kind: 'none' },
}

export const models = {
  'llama-3.1-8b': {
    repository: 'meta-llama/Llama-3.1-8B',
    // num_hidden_layers; num_key_value_heads; hidden_size 4096 / num_attention_heads 32
    blocks: repeat(32, heads(8, 128)),
    // EAGLE-3 for it is one Llama layer of the same width; its own num_key_value_heads
    draft: heads(8, 128),
  },
  'llama-3.1-70b': {
    repository: 'meta-llama/Llama-3.1-70B',
    // num_hidden_layers; num_key_value_heads; hidden_size 8192 / num_attention_heads 64
    blocks: repeat(80, heads(8, 128)),
  },
  'qwen3-32b': {
    repository: 'Qwen/Qwen3-32B',
    // num_hidden_layers; num_key_value_heads; head_dim, which is not hidden_size / num_attention_heads here
    blocks: repeat(64, heads(8, 128)),
  },
  'qwen3-235b-a22b': {
    repository: 'Qwen/Qwen3-235B-A22B',
    // num_hidden_layers; num_key_value_heads; head_dim
    blocks: repeat(94, heads(4, 128)),
  },
  'deepseek-v3': {
    repository: 'deepseek-ai/DeepSeek-V3',
    blocks: repeat(61, deepseek), // num_hidden_layers
    draft: deepseek, // num_nextn_predict_layers 1: a layer like the others
  },
  'gpt-oss-120b': {
    repository: 'openai/gpt-oss-120b',
    // num_hidden_layers 36; layer_types: sliding, full, sliding, …; num_key_value_heads; head_dim; sliding_window
    blocks: repeat(18, heads(8, 64, 128), heads(8, 64)),
  },
  'nemotron-h-8b': {
    repository: 'nvidia/Nemotron-H-8B-Base-8K',
    // hybrid_override_pattern: 24 Mamba-2 layers, 4 of attention, 24 that are only an MLP
    blocks: Array.from(
      'M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-',
      (letter) => nemotronH[letter] ?? { kind: 'none' },
    ),
  },
} as const satisfies Record<string, Model>

export type ModelName = keyof typeof models

export const modelNames = Object.keys(models) as readonly ModelName[]
