import { KvxError, type ErrorCode } from '../backend/errors.ts'
import { type Layout, type Tensor } from '../layout/layout.ts'
import { byKey, tensorKey } from './lanes.ts'

/**
 * Can every tensor of `destination` be filled from `source`?
 *
 * @throws KvxError `ERR_KVX_PAGE_SIZE_MISMATCH`, `ERR_KVX_LAYOUT_MISMATCH` with one sentence that
 *   names both values
 */
export function checkFit(source: Layout, destination: Layout): void {
  same('ERR_KVX_LAYOUT_MISMATCH', 'The models differ', source.model, destination.model)
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
    checkCovered(name, candidates, tensor)
  }
}

/** Every head of `tensor` must be held by one of the candidates, which do not overlap. */
function checkCovered(name: string, candidates: readonly Tensor[], tensor: Tensor): void {
  const end = tensor.heads[1]
  let next = tensor.heads[0]
  for (const [low, high] of candidates.map(({ heads }) => heads).sort((a, b) => a[0] - b[0])) {
    if (low <= next && high > next) next = high
  }
  if (next >= end) return
  const held = candidates.map(({ heads }) => range(heads)).join(', ')
  throw new KvxError(
    'ERR_KVX_LAYOUT_MISMATCH',
    `Prefill does not hold all of ${name}: decode needs heads ${range(tensor.heads)}, prefill holds ${held === '' ? 'none' : held}.`,
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
