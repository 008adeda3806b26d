/** The digests of a job, written from the words of `DigestJob` alone, as plainly as they can be said. */
import type { DigestJob, Memory } from '@kvx/contract'

const wrap = (x: bigint) => BigInt.asUintN(64, x)

function mix(x: bigint): bigint {
  for (let round = 0; round < 2; round++) {
    x ^= x >> 32n
    x = wrap(x * 0xd6e8feb86659fd93n)
  }
  return x ^ (x >> 32n)
}

const k = (j: number) => mix(wrap(BigInt(j + 1) * 0x9e3779b97f4a7c15n))

export function byDefinition(job: DigestJob, memories: readonly Memory[]): Uint8Array {
  const digests: bigint[] = []
  const T = job.pageTokens
  for (const [t, key] of job.keys.entries()) {
    const [region, base, pageBytes, R, units, firstUnit, unitBytes, elementBytes, ...strides] =
      job.tensors.slice(11 * t, 11 * t + 11) as unknown as number[]
    const [rowStride, unitStride, elementStride] = strides
    let [first, second] = [0n, 0n]
    for (let run = 0; run < job.runs.length; run += 4) {
      const [page, firstToken, tokens, token] = job.runs.slice(run, run + 4)
      const q0 = Math.floor((firstToken! * R!) / T)
      for (let q = q0; q < Math.ceil(((firstToken! + tokens!) * R!) / T); q++) {
        const row = Math.floor((token! * R!) / T) + q - q0
        for (let u = 0; u < units!; u++) {
          const cell: number[] = []
          for (let e = 0; e < unitBytes! / elementBytes!; e++) {
            const at =
              base! +
              (page! + Math.floor(q / R!)) * pageBytes! +
              (q % R!) * rowStride! +
              u * unitStride! +
              e * elementStride!
            cell.push(...memories[region!]!.view!(at, elementBytes!))
          }
          for (let b = 0; b * 1_024 < cell.length; b++) {
            const block = cell.slice(b * 1_024, (b + 1) * 1_024)
            const [y, z] = hash(block, [key, row, firstUnit! + u, b])
            first = wrap(first + y)
            second = wrap(second + z)
          }
        }
      }
    }
    digests.push(first, second)
  }
  const bytes = new DataView(new ArrayBuffer(8 * digests.length))
  digests.forEach((half, i) => {
    bytes.setBigUint64(8 * i, half, true)
  })
  return new Uint8Array(bytes.buffer)
}

function hash(
  block: readonly number[],
  [key, row, unit, b]: [bigint, number, number, number],
): [bigint, bigint] {
  const padded = new DataView(new ArrayBuffer(16 * Math.ceil(block.length / 16)))
  block.forEach((byte, i) => {
    padded.setUint8(i, byte)
  })
  let [low, high] = [0n, 0n]
  for (let i = 0; 16 * i < padded.byteLength; i++) {
    const product =
      wrap(padded.getBigUint64(16 * i, true) + k(2 * i)) *
      wrap(padded.getBigUint64(16 * i + 8, true) + k(2 * i + 1))
    low = wrap(low + wrap(product))
    high = wrap(high + (product >> 64n))
  }
  const seed = mix(
    wrap(
      key +
        BigInt(row) * 0x9e3779b97f4a7c15n +
        BigInt(unit) * 0xc2b2ae3d27d4eb4fn +
        BigInt(b) * 0x165667b19e3779f9n +
        BigInt(block.length) * 0x27d4eb2f165667c5n,
    ),
  )
  const x = mix(wrap(low + seed))
  const y = mix(wrap(high + x))
  return [y, mix(x ^ y)]
}
