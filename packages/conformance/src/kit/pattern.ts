/** Bytes that tell one place of a memory from every other, and one filling from the next. */
import { createCipheriv, createHash } from 'node:crypto'

/** The bytes of a memory filled with `seed`: the same in every process, and quick. */
export function pattern(seed: number, bytes: number): Buffer {
  const key = Buffer.alloc(16)
  key.writeUInt32LE(seed)
  return createCipheriv('aes-128-ctr', key, Buffer.alloc(16)).update(Buffer.alloc(bytes))
}

export function hashOf(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}

/** What differs between two equally long pieces of memory, for people; undefined when nothing does. */
export function difference(found: Uint8Array, expected: Uint8Array): string | undefined {
  let [count, first, last] = [0, 0, 0]
  for (let i = 0; i < expected.length; i++) {
    if (found[i] === expected[i]) continue
    if (count++ === 0) first = i
    last = i
  }
  if (count === 0) return undefined
  return `${count} of ${expected.length} bytes are wrong, from byte ${first} to byte ${last}; byte ${first} is ${found[first] ?? 'missing'}, it must be ${expected[first] ?? 'missing'}`
}
