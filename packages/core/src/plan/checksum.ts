import { crc32 } from 'node:zlib'
import { laneWidth, type Memory } from '../backend/contract.ts'
import { KvxError } from '../backend/errors.ts'
import { type Planner } from './plan.ts'

/**
 * CRC-32 of each page, over exactly the bytes that move for it: all lanes of the component in order,
 * the runs of a lane in order. Each side needs only its own pages and memory; in the same order of
 * pages both get the same numbers.
 *
 * @throws KvxError `ERR_KVX_INVALID_OPTION` when a memory cannot be viewed; as `Planner.laneRange`
 */
export function pageChecksums(options: {
  planner: Planner
  side: 'source' | 'destination'
  component: string
  layers?: readonly [number, number] | undefined
  pages: Int32Array
  memory: readonly Memory[]
}): Uint32Array {
  const { planner, memory } = options
  const [first, end] = planner.laneRange(options.component, options.layers)
  const column = options.side === 'source' ? 0 : 1
  const lanes = Array.from({ length: end - first }, (_, i) => {
    const row = planner.lanes.rows.subarray((first + i) * laneWidth, (first + i + 1) * laneWidth)
    const at = (field: number) => row[field] ?? 0
    return {
      region: at(column),
      base: at(2 + column),
      pageBytes: at(4 + column),
      runBytes: at(6),
      runs: at(7),
      stride: at(8 + column),
    }
  })
  return Uint32Array.from(options.pages, (page) => {
    let sum = 0
    for (const { region, base, pageBytes, runBytes, runs, stride } of lanes) {
      const span = (runs - 1) * stride + runBytes
      const bytes = memory[region]?.view?.(base + page * pageBytes, span)
      if (bytes === undefined) {
        throw new KvxError(
          'ERR_KVX_INVALID_OPTION',
          `The memory of region ${region} cannot be viewed, so its pages cannot be checked. Let kvx allocate it, or give it a 'view'.`,
        )
      }
      for (let run = 0; run < runs; run += 1) {
        sum = crc32(bytes.subarray(run * stride, run * stride + runBytes), sum)
      }
    }
    return sum
  })
}
