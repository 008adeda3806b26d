import { randomBytes } from 'node:crypto'

/** A fresh room: 63 random bits, since SGLang's rooms are signed 64-bit integers. */
export function randomRoom(): bigint {
  return randomBytes(8).readBigUInt64BE() >> 1n
}
