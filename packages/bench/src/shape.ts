/** The shape of a known model's cache. */
import { KvxError } from '@kvx/contract'
import type { CacheShape, ComponentShape, TensorShape } from '@kvx/core/bytes'
import {
  models,
  type HeadsBlock,
  type LatentBlock,
  type MambaBlock,
  type Model,
  type ModelName,
} from './models.ts'

export type CacheDtype = 'bf16' | 'fp8'

export interface ShapeOptions {
  /** Of keys, values and latents. Default: `bf16`. */
  readonly dtype?: CacheDtype
  /**
   * FP8 keys and values have a component of scales beside them: one FP32 number for so many tokens of a head. Default: 16.
   * Engines differ here, and many keep one scale per tensor, outside of the cache; this is a shape with rows of several
   * tokens.
   */
  readonly tokensPerScale?: number
  /** A draft layer after those of the model, with heads of its own; `true`: the one in the table. Default: none. */
  readonly draft?: boolean | { readonly kvHeads: number; readonly headDim: number }
  /** The index of sparse attention beside each latent, as in DeepSeek-V3.2. Default: none. */
  readonly index?: boolean
  /** Only the first so many layers. Default: all. */
  readonly layers?: number
}

/** Of one component, before those of other layers are known. */
interface Piece extends Omit<ComponentShape, 'tensors'> {
  readonly tensor: TensorShape
}

/**
 * Components: `kv`, `swa` (sliding-window attention), `mamba`, `index`, `draft`, and with FP8 `kv.scales`, `swa.scales`,
 * `draft.scales`.
 *
 * @throws KvxError `ERR_KVX_INVALID_ARGUMENT` for a draft layer or an index that the model has not
 */
export function shapeOf(name: ModelName, options: ShapeOptions = {}): CacheShape {
  const { dtype = 'bf16', tokensPerScale = 16, draft = false, index = false } = options
  const model: Model = models[name]
  const blocks = model.blocks.slice(0, options.layers)
  const draftBlock = draftOf(name, draft)
  const context = { dtype, tokensPerScale, index }
  const pieces = blocks.flatMap((block, layer): Piece[] => {
    switch (block.kind) {
      case 'none':
        return []
      case 'mamba':
        return mambaPieces(block, layer)
      case 'heads':
        return headPieces(block.window === undefined ? 'kv' : 'swa', block, layer, context)
      case 'latent':
        return latentPieces('kv', block, layer, context)
    }
  })
  if (draftBlock) {
    const [component, layer] = ['draft', blocks.length] as const
    const more =
      draftBlock.kind === 'heads'
        ? headPieces(component, draftBlock, layer, context)
        : latentPieces(component, draftBlock, layer, context)
    pieces.push(...more)
  }
  if (index && !blocks.some(({ kind }) => kind === 'latent')) {
    throw invalid(`index is for models with a latent, and ${name} has none.`)
  }
  return {
    model: model.repository,
    settings: { 'cache dtype': dtype },
    layers: blocks.length + (draftBlock ? 1 : 0),
    components: componentsOf(pieces),
  }
}

interface Context {
  readonly dtype: CacheDtype
  readonly tokensPerScale: number
  readonly index: boolean
}

function draftOf(
  name: ModelName,
  draft: NonNullable<ShapeOptions['draft']>,
): HeadsBlock | LatentBlock | undefined {
  if (typeof draft === 'object') return { kind: 'heads', ...draft }
  if (!draft) return undefined
  const known = (models[name] as Model).draft
  if (known) return known
  throw invalid(`The table has no draft layer for ${name}: give its kvHeads and headDim.`)
}

function headPieces(
  name: string,
  { kvHeads, headDim, window }: HeadsBlock,
  layer: number,
  { dtype, tokensPerScale }: Context,
): Piece[] {
  const component = { addressed: 'tokens', ...(window !== undefined && { window }) } as const
  const elementBytes = dtype === 'bf16' ? 2 : 1
  return ['k', 'v'].flatMap((part): Piece[] => {
    const numbers = {
      ...{ layer, part, dtype: dtype === 'bf16' ? 'bf16' : 'fp8_e4m3' },
      ...{ units: kvHeads, unitBytes: headDim * elementBytes, elementBytes },
    }
    const scales = {
      ...{ layer, part, dtype: 'f32', units: kvHeads, unitBytes: 4, elementBytes: 4 },
      tokensPerRow: tokensPerScale,
    }
    return [
      { name, ...component, tensor: numbers },
      ...(dtype === 'fp8' ? [{ name: `${name}.scales`, ...component, tensor: scales }] : []),
    ]
  })
}

/** Replicated: every tensor-parallel rank has all of it. */
function latentPieces(
  name: string,
  { rank, ropeDim, indexDim }: LatentBlock,
  layer: number,
  { dtype, index }: Context,
): Piece[] {
  const latent = { layer, part: 'latent', units: 1 }
  const numbers = rank + ropeDim
  const forms = {
    bf16: { dtype: 'bf16', unitBytes: numbers * 2, elementBytes: 2 },
    fp8: { dtype: 'fp8_e4m3', unitBytes: numbers, elementBytes: 1 },
    // Sparse attention reads a packed row: the latent in FP8, an FP32 scale for each 128 of it, RoPE in BF16.
    packed: {
      ...{ dtype: 'fp8_ds_mla', elementBytes: 1 },
      unitBytes: rank + (rank / 128) * 4 + ropeDim * 2,
    },
  }
  const form = dtype === 'bf16' ? forms.bf16 : index ? forms.packed : forms.fp8
  const addressed = 'tokens'
  return [
    { name, addressed, tensor: { ...latent, ...form } },
    ...(index ? indexTensors(indexDim, layer) : []).map((tensor): Piece => ({
      name: 'index',
      addressed,
      tensor,
    })),
  ]
}

/** Keys of the indexer are FP8 whatever the cache is, with one FP32 scale for 128 of them. */
function indexTensors(indexDim: number, layer: number): TensorShape[] {
  const scales = indexDim / 128
  return [
    {
      ...{ layer, part: 'k', dtype: 'fp8_e4m3', units: 1 },
      ...{ unitBytes: indexDim, elementBytes: 1 },
    },
    {
      ...{ layer, part: 'scale', dtype: 'f32', units: 1 },
      ...{ unitBytes: scales * 4, elementBytes: 4 },
    },
  ]
}

/**
 * The convolution runs over x, B and C side by side; each is divided among the ranks on its own, x by heads, B and C by
 * groups. The state of the recurrence is in FP32, which engines let a user choose.
 */
function mambaPieces(block: MambaBlock, layer: number): Piece[] {
  const { heads, headDim, groups, stateSize, convKernel } = block
  const conv = { layer, dtype: 'bf16', elementBytes: 2, rows: convKernel - 1 }
  const tensors: TensorShape[] = [
    { ...conv, part: 'conv.x', units: heads, unitBytes: headDim * 2 },
    { ...conv, part: 'conv.B', units: groups, unitBytes: stateSize * 2 },
    { ...conv, part: 'conv.C', units: groups, unitBytes: stateSize * 2 },
    {
      ...{ layer, part: 'ssm', dtype: 'f32', units: heads },
      ...{ unitBytes: headDim * stateSize * 4, elementBytes: 4 },
    },
  ]
  return tensors.map((tensor) => ({ name: 'mamba', addressed: 'request', tensor }))
}

function componentsOf(pieces: readonly Piece[]): ComponentShape[] {
  const components = new Map<string, ComponentShape & { tensors: TensorShape[] }>()
  for (const { tensor, ...component } of pieces) {
    const known = components.get(component.name)
    if (known) known.tensors.push(tensor)
    else components.set(component.name, { ...component, tensors: [tensor] })
  }
  return [...components.values()]
}

function invalid(text: string): KvxError {
  return new KvxError('ERR_KVX_INVALID_ARGUMENT', text, { phase: 'open' })
}
