/** Small models with random weights, one for each kind of cache. Their answers are noise that depends on all of a prompt. */
import {
  generator,
  tinyVocabularySize,
  tokenizerValues,
  type Contents,
  type List,
  type TensorOf,
  type Value,
} from './gguf.ts'

export interface Architecture {
  /** `general.architecture`. */
  readonly name: string
  /** Without the name of the architecture before them. */
  readonly values: Readonly<Record<string, number | boolean | readonly number[]>>
  readonly layers: number
  /** Name of the last norm, where it is another. */
  readonly lastNorm?: string
  add(layer: number, weights: Weights): void
}

const [width, heads, kvHeads, headDim, inner] = [32, 4, 2, 16, 64]
const qWidth = heads * headDim
const kvWidth = kvHeads * headDim

export class Weights {
  readonly tensors: TensorOf[] = []
  readonly #random: () => number

  constructor(seed: number) {
    this.#random = generator(seed)
  }

  between(low: number, high: number, name: string, ...dims: number[]): void {
    const data = Float32Array.from(
      { length: dims.reduce((a, b) => a * b) },
      () => low + (high - low) * this.#random(),
    )
    this.tensors.push({ name, dims, data })
  }

  /** So that what comes out is as large as what goes in. */
  matrix(name: string, columns: number, ...others: number[]): void {
    const most = 1.7 / Math.sqrt(columns)
    this.between(-most, most, name, columns, ...others)
  }

  norm(name: string, size = width): void {
    this.between(0.9, 1.1, name, size)
  }
}

function attention(weights: Weights, layer: number): void {
  weights.matrix(`blk.${String(layer)}.attn_q.weight`, width, qWidth)
  weights.matrix(`blk.${String(layer)}.attn_k.weight`, width, kvWidth)
  weights.matrix(`blk.${String(layer)}.attn_v.weight`, width, kvWidth)
  weights.matrix(`blk.${String(layer)}.attn_output.weight`, qWidth, width)
}

/** Of heads that together are as wide as the model. */
function narrowAttention(weights: Weights, layer: number): void {
  weights.matrix(`blk.${String(layer)}.attn_q.weight`, width, width)
  weights.matrix(`blk.${String(layer)}.attn_k.weight`, width, width / 2)
  weights.matrix(`blk.${String(layer)}.attn_v.weight`, width, width / 2)
  weights.matrix(`blk.${String(layer)}.attn_output.weight`, width, width)
}

function feedForward(weights: Weights, layer: number): void {
  weights.matrix(`blk.${String(layer)}.ffn_gate.weight`, width, inner)
  weights.matrix(`blk.${String(layer)}.ffn_up.weight`, width, inner)
  weights.matrix(`blk.${String(layer)}.ffn_down.weight`, inner, width)
}

const attentionValues = {
  'attention.head_count': heads,
  'attention.head_count_kv': kvHeads,
  'attention.key_length': headDim,
  'attention.value_length': headDim,
  'attention.layer_norm_rms_epsilon': 1e-5,
  'rope.dimension_count': headDim,
  feed_forward_length: inner,
} as const

const narrowValues = {
  ...attentionValues,
  'attention.key_length': width / heads,
  'attention.value_length': width / heads,
  'rope.dimension_count': width / heads,
} as const

const experts = 4

/** Tokens of the sliding windows below. */
export const window = 24

function gemma(name: string, layers: number, hasNorms: boolean): Architecture {
  return {
    ...{ name, layers, values: { ...attentionValues, 'attention.sliding_window': window } },
    add(layer, weights) {
      const of = (part: string) => `blk.${String(layer)}.${part}.weight`
      for (const part of ['attn_norm', 'post_attention_norm', 'ffn_norm', 'post_ffw_norm']) {
        weights.norm(of(part))
      }
      if (hasNorms)
        for (const part of ['attn_q_norm', 'attn_k_norm']) weights.norm(of(part), headDim)
      attention(weights, layer)
      feedForward(weights, layer)
    },
  }
}

const [columns, channels, state, rank] = [4, 2 * width, 16, 4]
const mambaValues = {
  'ssm.conv_kernel': columns,
  'ssm.inner_size': channels,
  'ssm.state_size': state,
  'ssm.time_step_rank': rank,
  'attention.layer_norm_rms_epsilon': 1e-5,
} as const
const groups = 2

function mamba(weights: Weights, layer: number, norms: boolean): void {
  const of = (part: string) => `blk.${String(layer)}.${part}`
  weights.matrix(of('ssm_in.weight'), width, 2 * channels)
  weights.matrix(of('ssm_conv1d.weight'), columns, channels)
  weights.between(-0.1, 0.1, of('ssm_conv1d.bias'), channels)
  weights.matrix(of('ssm_x.weight'), channels, rank + 2 * state)
  weights.matrix(of('ssm_dt.weight'), rank, channels)
  weights.between(-2, 0, of('ssm_dt.bias'), channels)
  weights.between(-1, -0.02, of('ssm_a'), state, channels)
  weights.between(0.5, 1, of('ssm_d'), channels)
  weights.matrix(of('ssm_out.weight'), channels, width)
  if (!norms) return
  weights.norm(of('ssm_dt_norm.weight'), rank)
  weights.norm(of('ssm_b_norm.weight'), state)
  weights.norm(of('ssm_c_norm.weight'), state)
}

function mamba2(weights: Weights, layer: number): void {
  const of = (part: string) => `blk.${String(layer)}.${part}`
  const mixed = channels + 2 * groups * state
  weights.matrix(of('ssm_in.weight'), width, channels + mixed + rank)
  weights.matrix(of('ssm_conv1d.weight'), columns, mixed)
  weights.between(-0.1, 0.1, of('ssm_conv1d.bias'), mixed)
  weights.between(-2, 0, of('ssm_dt.bias'), rank)
  weights.between(-1, -0.02, of('ssm_a'), 1, rank)
  weights.between(0.5, 1, of('ssm_d'), 1, rank)
  weights.between(0.9, 1.1, of('ssm_norm.weight'), channels / groups, groups)
  weights.matrix(of('ssm_out.weight'), channels, width)
}

/** deepseek2: what is compressed of a token, and the part of a head with and without RoPE. */
const [latent, rope, plain, queryRank] = [32, 8, 16, 24]

export const architectures = {
  /** Layers 0 and 2 have the window. */
  gemma2: gemma('gemma2', 4, false),
  /** All but layer 5. */
  gemma3: gemma('gemma3', 7, true),
  cohere2: {
    name: 'cohere2',
    layers: 4,
    values: {
      ...narrowValues,
      'attention.layer_norm_epsilon': 1e-5,
      'attention.sliding_window': window,
      logit_scale: 0.5,
    },
    add(layer, weights) {
      weights.norm(`blk.${String(layer)}.attn_norm.weight`)
      narrowAttention(weights, layer)
      feedForward(weights, layer)
    },
  },
  /** All but layer 3. */
  olmo2: {
    name: 'olmo2',
    layers: 4,
    values: {
      ...narrowValues,
      'attention.sliding_window': window,
    },
    add(layer, weights) {
      const of = (part: string) => `blk.${String(layer)}.${part}.weight`
      if (layer === 0) weights.matrix('output.weight', width, tinyVocabularySize)
      narrowAttention(weights, layer)
      weights.norm(of('attn_q_norm'))
      weights.norm(of('attn_k_norm'), width / 2)
      weights.norm(of('post_attention_norm'))
      feedForward(weights, layer)
      weights.norm(of('post_ffw_norm'))
    },
  },
  /** Layers 0 and 2. */
  'gpt-oss': {
    name: 'gpt-oss',
    layers: 4,
    values: {
      ...attentionValues,
      'attention.sliding_window': window,
      expert_feed_forward_length: inner,
      expert_count: experts,
      expert_used_count: 2,
    },
    add(layer, weights) {
      const of = (part: string) => `blk.${String(layer)}.${part}`
      if (layer === 0) weights.matrix('output.weight', width, tinyVocabularySize)
      weights.norm(of('attn_norm.weight'))
      weights.norm(of('post_attention_norm.weight'))
      attention(weights, layer)
      weights.between(-0.1, 0.1, of('attn_output.bias'), width)
      weights.between(-1, 1, of('attn_sinks.weight'), heads)
      weights.matrix(of('ffn_gate_inp.weight'), width, experts)
      weights.between(-0.1, 0.1, of('ffn_gate_inp.bias'), experts)
      for (const part of ['ffn_gate_exps', 'ffn_up_exps']) {
        weights.matrix(of(`${part}.weight`), width, inner, experts)
        weights.between(-0.1, 0.1, of(`${part}.bias`), inner, experts)
      }
      weights.matrix(of('ffn_down_exps.weight'), inner, width, experts)
      weights.between(-0.1, 0.1, of('ffn_down_exps.bias'), width, experts)
    },
  },
  /** llama.cpp leaves its window out. */
  phi3: {
    name: 'phi3',
    layers: 2,
    values: {
      ...narrowValues,
      'attention.sliding_window': window,
    },
    add(layer, weights) {
      const of = (part: string) => `blk.${String(layer)}.${part}.weight`
      weights.norm(of('attn_norm'))
      weights.matrix(of('attn_qkv'), width, 2 * width)
      weights.matrix(of('attn_output'), width, width)
      weights.norm(of('ffn_norm'))
      weights.matrix(of('ffn_up'), width, 2 * inner)
      weights.matrix(of('ffn_down'), inner, width)
    },
  },
  deepseek2: {
    name: 'deepseek2',
    layers: 2,
    values: {
      ...attentionValues,
      'attention.head_count_kv': 1,
      'attention.q_lora_rank': queryRank,
      'attention.kv_lora_rank': latent,
      'attention.key_length': latent + rope,
      'attention.value_length': latent,
      'attention.key_length_mla': plain + rope,
      'attention.value_length_mla': headDim,
      'rope.dimension_count': rope,
      leading_dense_block_count: 2,
      expert_feed_forward_length: inner,
      expert_shared_count: 1,
    },
    add(layer, weights) {
      const of = (part: string) => `blk.${String(layer)}.${part}.weight`
      weights.norm(of('attn_norm'))
      weights.norm(of('attn_q_a_norm'), queryRank)
      weights.norm(of('attn_kv_a_norm'), latent)
      weights.matrix(of('attn_q_a'), width, queryRank)
      weights.matrix(of('attn_q_b'), queryRank, heads * (plain + rope))
      weights.matrix(of('attn_kv_a_mqa'), width, latent + rope)
      weights.matrix(of('attn_k_b'), plain, latent, heads)
      weights.matrix(of('attn_v_b'), latent, headDim, heads)
      weights.matrix(of('attn_output'), heads * headDim, width)
      weights.norm(of('ffn_norm'))
      feedForward(weights, layer)
    },
  },
  mamba: {
    name: 'mamba',
    layers: 2,
    values: { ...mambaValues, feed_forward_length: 0, 'attention.head_count': 0 },
    add(layer, weights) {
      weights.norm(`blk.${String(layer)}.attn_norm.weight`)
      mamba(weights, layer, false)
    },
  },
  mamba2: {
    name: 'mamba2',
    layers: 2,
    values: {
      ...{ ...mambaValues, feed_forward_length: 0, 'attention.head_count': 0 },
      'ssm.group_count': groups,
    },
    add(layer, weights) {
      weights.norm(`blk.${String(layer)}.attn_norm.weight`)
      mamba2(weights, layer)
    },
  },
  /** Layer 2 has attention, the others the state. */
  jamba: {
    name: 'jamba',
    layers: 4,
    values: {
      ...{ ...attentionValues, ...mambaValues },
      'attention.key_length': width / heads,
      'attention.value_length': width / heads,
      'attention.head_count_kv': [0, 0, kvHeads, 0],
    },
    add(layer, weights) {
      const of = (part: string) => `blk.${String(layer)}.${part}.weight`
      weights.norm(of('attn_norm'))
      if (layer === 2) narrowAttention(weights, layer)
      else mamba(weights, layer, true)
      weights.norm(of('ffn_norm'))
      feedForward(weights, layer)
    },
  },
  /** Layer 1 has attention, the others the state. */
  granitehybrid: {
    name: 'granitehybrid',
    layers: 3,
    values: {
      ...{ ...attentionValues, ...mambaValues, 'ssm.group_count': groups },
      'attention.head_count_kv': [0, kvHeads, 0],
      logit_scale: 0.5,
    },
    add(layer, weights) {
      weights.norm(`blk.${String(layer)}.attn_norm.weight`)
      if (layer === 1) attention(weights, layer)
      else mamba2(weights, layer)
      weights.norm(`blk.${String(layer)}.ffn_norm.weight`)
      feedForward(weights, layer)
    },
  },
  /** Every layer has both. */
  'falcon-h1': {
    name: 'falcon-h1',
    layers: 2,
    values: { ...attentionValues, ...mambaValues, 'ssm.group_count': groups },
    add(layer, weights) {
      weights.norm(`blk.${String(layer)}.attn_norm.weight`)
      attention(weights, layer)
      mamba2(weights, layer)
      weights.norm(`blk.${String(layer)}.ffn_norm`)
      feedForward(weights, layer)
    },
  },
  /** Layers: state, feed-forward network, attention, state. */
  nemotron_h: {
    name: 'nemotron_h',
    layers: 4,
    values: {
      ...{ ...attentionValues, ...mambaValues, 'ssm.group_count': groups },
      'attention.layer_norm_epsilon': 1e-5,
      'attention.head_count_kv': [0, 0, kvHeads, 0],
      feed_forward_length: [0, inner, 0, 0],
    },
    add(layer, weights) {
      const of = (part: string) => `blk.${String(layer)}.${part}.weight`
      weights.norm(of('attn_norm'))
      if (layer === 1) {
        weights.matrix(of('ffn_up'), width, inner)
        weights.matrix(of('ffn_down'), inner, width)
      } else if (layer === 2) attention(weights, layer)
      else mamba2(weights, layer)
    },
  },
} as const satisfies Record<string, Architecture>

/** What llama.cpp loads and kvx does not know: a window in other layers, and a state of another kind. */
export const unknown = {
  plamo3: {
    name: 'plamo3',
    layers: 2,
    values: { ...attentionValues, 'attention.sliding_window': window },
    add(layer, weights) {
      const of = (part: string) => `blk.${String(layer)}.${part}`
      weights.norm(of('attn_norm.weight'))
      weights.matrix(of('attn_qkv.weight'), width, qWidth + 2 * kvWidth)
      weights.norm(of('attn_q_norm.weight'), headDim)
      weights.norm(of('attn_k_norm.weight'), headDim)
      weights.matrix(of('attn_output.weight'), qWidth, width)
      weights.norm(of('post_attention_norm'))
      weights.norm(of('ffn_norm.weight'))
      weights.norm(of('post_ffw_norm'))
      weights.matrix(of('ffn_up.weight'), width, 2 * inner)
      weights.matrix(of('ffn_down.weight'), inner, width)
    },
  },
  lfm2: {
    name: 'lfm2',
    layers: 2,
    lastNorm: 'token_embd_norm',
    values: {
      ...narrowValues,
      'attention.head_count_kv': [0, kvHeads],
      'shortconv.l_cache': 3,
    },
    add(layer, weights) {
      const of = (part: string) => `blk.${String(layer)}.${part}.weight`
      weights.norm(of('attn_norm'))
      weights.norm(of('ffn_norm'))
      feedForward(weights, layer)
      if (layer === 0) {
        weights.matrix(of('shortconv.conv'), 3, width)
        weights.matrix(of('shortconv.in_proj'), width, 3 * width)
        weights.matrix(of('shortconv.out_proj'), width, width)
      } else {
        narrowAttention(weights, layer)
        weights.norm(of('attn_q_norm'), width / heads)
        weights.norm(of('attn_k_norm'), width / heads)
      }
    },
  },
} as const satisfies Record<string, Architecture>

/** A whole model that llama.cpp loads. */
export function tinyArchitecture(
  { name, layers, lastNorm = 'output_norm', values, add }: Architecture,
  others: Architecture['values'] = {},
): Contents {
  const all = { embedding_length: width, block_count: layers, context_length: 2048 }
  const weights = new Weights(1)
  // Small, so that a token is not merely repeated where its row is also that of the output.
  weights.between(-0.1, 0.1, 'token_embd.weight', width, tinyVocabularySize)
  weights.norm(`${lastNorm}.weight`)
  for (let layer = 0; layer < layers; layer++) add(layer, weights)
  return {
    values: [
      { key: 'general.architecture', type: 'string', value: name },
      { key: 'general.name', type: 'string', value: 'tiny' },
      ...Object.entries({ ...all, ...values, ...others }).map(([key, value]) =>
        valueOf(`${name}.${key}`, value),
      ),
      ...tokenizerValues(),
    ],
    tensors: weights.tensors,
  }
}

function valueOf(key: string, value: number | boolean | readonly number[]): Value | List {
  if (typeof value === 'object') return { key, type: 'array', of: 'u32', value }
  if (typeof value === 'boolean') return { key, type: 'bool', value }
  return { key, type: Number.isInteger(value) ? 'u32' : 'f32', value }
}
