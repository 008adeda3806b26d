import { crc32 } from 'node:zlib'
import { checksumWidth, laneWidth, type ChecksumJob, type Memory } from '@kvx/contract'
import { KvxError } from '@kvx/contract'
import { type Planner } from './plan.ts'

/**
 * What an engine has to read for the checksum of each page: exactly the bytes that move for it, all lanes of the
 * component in order, the runs of a lane in order. Each side needs only its own pages and memory; in the same order of
 * pages both get the same numbers.
 *
 * @throws as `Planner.laneRange`
 */
export function checksumJob(options: {
  planner: Planner
  side: 'source' | 'destination'
  component: string
  layers?: readonly [number, number] | undefined
  pages: Int32Array
}): ChecksumJob {
  const { planner, pages } = options
  const [first, end] = planner.laneRange(options.component, options.layers)
  const column = options.side === 'source' ? 0 : 1
  const lanes = new Float64Array((end - first) * checksumWidth)
  for (let i = 0; i < end - first; i += 1) {
    const row = planner.lanes.rows.subarray((first + i) * laneWidth, (first + i + 1) * laneWidth)
    const fields = [column, 2 + column, 4 + column, 6, 7, 8 + column]
    lanes.set(
      fields.map((field) => row[field] ?? 0),
      i * checksumWidth,
    )
  }
  return { lanes, pages }
}

/**
 * The numbers of a job, computed at once on this thread: for engines of tests, and what others are compared with.
 *
 * @throws KvxError `ERR_KVX_INVALID_OPTION` when a memory cannot be viewed
 */
export function pageChecksums(
  { lanes, pages }: ChecksumJob,
  memory: readonly Memory[],
): Uint32Array {
  return Uint32Array.from(pages, (page) => {
    let sum = 0
    for (let at = 0; at < lanes.length; at += checksumWidth) {
      const [region = 0, base = 0, pageBytes = 0, runBytes = 0, runs = 0, stride = 0] =
        lanes.subarray(at, at + checksumWidth)
      const span = (runs - 1) * stride + runBytes
      const bytes = memory[region]?.view?.(base + page * pageBytes, span)
      if (bytes === undefined) {
        throw new KvxError(
          'ERR_KVX_INVALID_OPTION',
          `The memory of region ${String(region)} cannot be viewed, so its pages cannot be checked.`,
        )
      }
      for (let run = 0; run < runs; run += 1) {
        sum = crc32(bytes.subarray(run * stride, run * stride + runBytes), sum)
      }
    }
    return sum
  })
}
