import { KvxError, type ErrorCode } from '@kvx/contract'
import { type Layout, type Tensor } from '../layout/layout.ts'
import { byKey, tensorKey } from './lanes.ts'

/**
 * Do the tensors that two ranks share have the same form? What else the destination needs comes from
 * other ranks: `checkCovered`.
 *
 * @throws KvxError `ERR_KVX_PAGE_SIZE_MISMATCH`, `ERR_KVX_LAYOUT_MISMATCH` with one sentence that
 *   names both values
 */
export function checkFit(source: Layout, destination: Layout): void {
  checkModel(source, destination)
  same(
    'ERR_KVX_PAGE_SIZE_MISMATCH',
    'The page sizes differ',
    source.pageTokens,
    destination.pageTokens,
    ' tokens',
  )
  same('ERR_KVX_LAYOUT_MISMATCH', 'The numbers of layers differ', source.layers, destination.layers)
  same('ERR_KVX_LAYOUT_MISMATCH', 'The numbers of KV heads differ', source.heads, destination.heads)
  const sources = byKey(source.tensors)
  for (const tensor of destination.tensors) {
    const name = describe(tensor)
    const candidates = sources.get(tensorKey(tensor)) ?? []
    for (const other of candidates) {
      same('ERR_KVX_LAYOUT_MISMATCH', `The dtypes of ${name} differ`, other.dtype, tensor.dtype)
      same(
        'ERR_KVX_LAYOUT_MISMATCH',
        `The head sizes of ${name} differ`,
        other.headBytes,
        tensor.headBytes,
        ' bytes',
      )
      same(
        'ERR_KVX_LAYOUT_MISMATCH',
        `The orders within a page of ${name} differ`,
        other.order,
        tensor.order,
      )
    }
  }
}

/** Equal shapes prove nothing: other weights, or another setting, and the numbers mean something else. */
function checkModel(source: Layout, destination: Layout): void {
  if (source.model !== destination.model) {
    const [prefill, decode] = [source.model, destination.model].map(shortened)
    throw new KvxError(
      'ERR_KVX_LAYOUT_MISMATCH',
      `The models differ: prefill has ${prefill}, decode has ${decode}. Load the same model on both sides; a file that should be the same is damaged on one of them.`,
      { phase: 'hello' },
    )
  }
  const [ours, theirs] = [source.settings ?? {}, destination.settings ?? {}].map(
    (settings) => new Map(Object.entries(settings)),
  ) as [Map<string, string>, Map<string, string>]
  for (const name of new Set([...ours.keys(), ...theirs.keys()])) {
    const [prefill, decode] = [ours.get(name) ?? 'none', theirs.get(name) ?? 'none']
    same('ERR_KVX_LAYOUT_MISMATCH', `The setting '${name}' differs`, prefill, decode)
  }
}

/** Digests are told by their first digits; names are told whole. */
function shortened(model: string): string {
  return /^[0-9a-f]{32,}$/.test(model) ? `${model.slice(0, 12)}…` : model
}

/**
 * Do these ranks together hold every byte of `destination`, and none of it twice?
 *
 * @param sources layouts of the ranks that send to it, each of which passed `checkFit`
 * @throws KvxError `ERR_KVX_LAYOUT_MISMATCH`
 */
export function checkCovered(sources: readonly Layout[], destination: Layout): void {
  const held = byKey(sources.flatMap(({ tensors }) => tensors))
  for (const tensor of destination.tensors) {
    const [first, end] = tensor.heads
    const ranges = (held.get(tensorKey(tensor)) ?? [])
      .map(({ heads }) => heads)
      .filter(([low, high]) => low < end && high > first)
      .sort((a, b) => a[0] - b[0])
    let next = first
    for (const [low, high] of ranges) {
      const wrong =
        low > next ? 'lacks some' : Math.max(low, first) < next ? 'sends some twice' : ''
      if (wrong !== '') throw uncovered(tensor, ranges, wrong)
      next = high
    }
    if (next < end) throw uncovered(tensor, ranges, 'lacks some')
  }
}

function uncovered(tensor: Tensor, held: Tensor['heads'][], wrong: string): KvxError {
  const ranges = held.length === 0 ? 'none' : held.map(range).join(', ')
  return new KvxError(
    'ERR_KVX_LAYOUT_MISMATCH',
    `Prefill ${wrong} of ${describe(tensor)}: decode needs heads ${range(tensor.heads)}, prefill's ranks hold ${ranges}.`,
    { phase: 'hello' },
  )
}

function same(
  code: ErrorCode,
  what: string,
  source: string | number,
  destination: string | number,
  unit = '',
): void {
  if (source === destination) return
  throw new KvxError(
    code,
    `${what}: prefill has ${source}${unit}, decode has ${destination}${unit}.`,
    { phase: 'hello' },
  )
}

function describe(tensor: Tensor): string {
  return `${tensor.component} layer ${tensor.layer} ${tensor.part}`
}

function range([low, high]: readonly [number, number]): string {
  return `${low} to ${high - 1}`
}
