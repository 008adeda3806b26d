import { generator } from './gguf.ts'

/** Numbers at which counts, lengths and offsets go wrong. */
const odd = [
  ...[0n, 1n, 2n, 255n, 256n, 65_535n, 2n ** 31n - 1n, 2n ** 31n, 2n ** 32n - 1n],
  ...[2n ** 32n, 2n ** 53n, 2n ** 62n, 2n ** 63n - 1n, 2n ** 63n, 2n ** 64n - 1n],
]

/** Copies of a file with one to three changes each in its first `header` bytes, some of them cut off. */
export function* mutants(
  file: Buffer,
  header: number,
  count: number,
  seed: number,
): Generator<Buffer> {
  const random = generator(seed)
  const below = (limit: number) => Math.floor(random() * limit)
  for (let i = 0; i < count; i++) {
    const mutant = Buffer.from(file)
    for (let changes = 1 + below(3); changes > 0; changes--) {
      const at = below(header - 8)
      const kind = below(4)
      if (kind === 0) mutant[at] = (mutant[at] ?? 0) ^ (1 << below(8))
      else if (kind === 1) mutant[at] = below(256)
      else if (kind === 2) mutant.writeUInt32LE(Number(odd[below(9)]), at)
      else mutant.writeBigUInt64LE(odd[below(odd.length)] ?? 0n, at)
    }
    yield below(20) === 0 ? mutant.subarray(0, below(mutant.length)) : mutant
  }
}
