import { KvxError } from '@kvx/contract'
import { tensorName, type CacheShape, type ComponentShape, type TensorShape } from './shape.ts'

/** A difference: of what, and the two values. */
interface Difference {
  readonly field: string
  readonly prefill: string
  readonly decode: string
  /** What would fit; a sentence. */
  readonly advice: string
}

/**
 * Do both sides mean the same cache? Equal sizes prove nothing: with other weights, or another setting, the numbers mean
 * something else.
 *
 * @throws KvxError `ERR_KVX_LAYOUT_MISMATCH` that names the first field in which they differ, and both values
 */
export function checkSameShape(prefill: CacheShape, decode: CacheShape): void {
  const difference = differenceOf(prefill, decode)
  if (difference === undefined) return
  const { field, advice } = difference
  throw new KvxError(
    'ERR_KVX_LAYOUT_MISMATCH',
    `The caches differ in ${field}: prefill has ${difference.prefill}, decode has ${difference.decode}. ${advice}`,
    { phase: 'hello' },
  )
}

const sameShape =
  'State the same shape on both sides: it is that of the whole model, whatever a rank holds of it.'
const sameLayers = 'Both sides need the same layers, those of a draft model among them.'
const sameDtype = 'Start both sides with the same cache dtype.'
const sameSettings = 'Start both sides with the same settings.'

function differenceOf(prefill: CacheShape, decode: CacheShape): Difference | undefined {
  if (prefill.model !== decode.model) {
    const [ours, theirs] = [shortened(prefill.model), shortened(decode.model)]
    const advice =
      'Load the same model on both sides; a file that should be the same is damaged on one of them.'
    return { field: 'the model', prefill: ours, decode: theirs, advice }
  }
  return (
    settingsDifference(prefill.settings ?? {}, decode.settings ?? {}) ??
    unequal('the number of layers', prefill.layers, decode.layers, sameLayers) ??
    componentsDifference(prefill.components, decode.components)
  )
}

function settingsDifference(
  prefill: Readonly<Record<string, string>>,
  decode: Readonly<Record<string, string>>,
): Difference | undefined {
  const [ours, theirs] = [new Map(Object.entries(prefill)), new Map(Object.entries(decode))]
  for (const name of new Set([...ours.keys(), ...theirs.keys()])) {
    const field = `the setting '${name}'`
    const difference = unequal(field, ours.get(name), theirs.get(name), sameSettings)
    if (difference) return difference
  }
  return undefined
}

function componentsDifference(
  prefill: readonly ComponentShape[],
  decode: readonly ComponentShape[],
): Difference | undefined {
  const [ours, theirs] = [prefill, decode].map(
    (list) => new Map(list.map((one) => [one.name, one])),
  )
  for (const name of new Set([...(ours?.keys() ?? []), ...(theirs?.keys() ?? [])])) {
    const [mine, other] = [ours?.get(name), theirs?.get(name)]
    if (!mine || !other) {
      return unequal('their components', listed(prefill), listed(decode))
    }
    const difference =
      unequal(`how '${name}' is addressed`, mine.addressed, other.addressed) ??
      unequal(`the window of '${name}'`, mine.window, other.window) ??
      tensorsDifference(mine, other)
    if (difference) return difference
  }
  return undefined
}

function listed(components: readonly ComponentShape[]): string {
  const names = components.map(({ name }) => name)
  return names.sort().join(', ')
}

function tensorsDifference(
  prefill: ComponentShape,
  decode: ComponentShape,
): Difference | undefined {
  const nameOf = (tensor: TensorShape) => tensorName(prefill.name, tensor)
  const [ours, theirs] = [prefill, decode].map(
    ({ tensors }) => new Map(tensors.map((one) => [nameOf(one), one])),
  )
  for (const name of new Set([...(ours?.keys() ?? []), ...(theirs?.keys() ?? [])])) {
    const [mine, other] = [ours?.get(name), theirs?.get(name)]
    if (!mine || !other) {
      const [has, lacks] = ['it', 'none']
      const values = { prefill: mine ? has : lacks, decode: other ? has : lacks }
      return { field: name, ...values, advice: sameShape }
    }
    const difference =
      unequal(`the dtype of ${name}`, mine.dtype, other.dtype, sameDtype) ??
      unequal(`the units of ${name}`, mine.units, other.units) ??
      unequal(`the bytes per unit of ${name}`, mine.unitBytes, other.unitBytes) ??
      unequal(`the bytes per element of ${name}`, mine.elementBytes, other.elementBytes) ??
      unequal(`the tokens per row of ${name}`, mine.tokensPerRow ?? 1, other.tokensPerRow ?? 1) ??
      unequal(`the rows per slot of ${name}`, mine.rows ?? 1, other.rows ?? 1)
    if (difference) return difference
  }
  return undefined
}

function unequal(
  field: string,
  prefill: string | number | undefined,
  decode: string | number | undefined,
  advice = sameShape,
): Difference | undefined {
  if (prefill === decode) return undefined
  return { field, prefill: String(prefill ?? 'none'), decode: String(decode ?? 'none'), advice }
}

/** Digests are told by their first digits; names are told whole. */
function shortened(model: string): string {
  return /^[0-9a-f]{32,}$/.test(model) ? `${model.slice(0, 12)}…` : model
}
