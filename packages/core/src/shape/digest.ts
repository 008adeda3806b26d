import { createHash } from 'node:crypto'
import { checked, integer, tokenIdList } from '../arguments.ts'

/** The ids of a prompt's tokens, each from 0 to 2 ** 31 - 1. */
export type TokenIds = readonly number[] | Int32Array | Uint32Array

const id = integer(0, 2 ** 31 - 1)
const code = 'ERR_KVX_INVALID_ARGUMENT'

/**
 * 16 bytes that identify a prompt: both sides of a transfer must mean the same token ids.
 *
 * @throws KvxError `ERR_KVX_INVALID_ARGUMENT` for what is no token id
 */
export function promptDigest(tokenIds: TokenIds): Uint8Array {
  checked(tokenIdList, tokenIds, { name: 'tokenIds', code })
  const bytes = new DataView(new ArrayBuffer(tokenIds.length * 4))
  for (let i = 0; i < tokenIds.length; i += 1) {
    const value: unknown = tokenIds[i]
    const int32 = typeof value === 'number' ? value | 0 : -1
    if (int32 !== value || int32 < 0) checked(id, value, { name: `tokenIds[${String(i)}]`, code })
    bytes.setInt32(i * 4, int32, true)
  }
  return digest16(bytes)
}

export function digest16(data: string | DataView): Uint8Array {
  return Uint8Array.from(createHash('sha256').update(data).digest().subarray(0, 16))
}
