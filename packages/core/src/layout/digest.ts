import { createHash } from 'node:crypto'

/** 16 bytes that identify a prompt: both sides of a transfer must mean the same token ids. */
export function promptDigest(tokenIds: ArrayLike<number>): Uint8Array {
  const bytes = new DataView(new ArrayBuffer(tokenIds.length * 4))
  for (let i = 0; i < tokenIds.length; i += 1) bytes.setInt32(i * 4, tokenIds[i] ?? 0, true)
  return digest16(bytes)
}

export function digest16(data: string | DataView): Uint8Array {
  return Uint8Array.from(createHash('sha256').update(data).digest().subarray(0, 16))
}
