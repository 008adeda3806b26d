import { blockWidth, groupWidth, laneWidth, type TransferPlan } from './contract.ts'
import { KvxError } from './errors.ts'

/**
 * Calls `copy` for each run of bytes that a plan moves, in the order in which `TransferPlan` defines them: for engines in
 * JavaScript, and what others are compared with. Offsets are in bytes from the beginning of the region; whether they lie in
 * it is for `copy` to say.
 *
 * @throws KvxError `ERR_KVX_PLAN_INVALID` for what is no plan, before the first copy
 */
export function eachCopy(
  plan: TransferPlan,
  copy: (
    sourceRegion: number,
    source: number,
    destinationRegion: number,
    destination: number,
    bytes: number,
  ) => void,
): void {
  checkTables(plan)
  if (typeof copy !== 'function') throw invalid('copy must be a function')
  const { lanes, groups, blocks } = plan
  for (let block = 0; block < blocks.length; block += blockWidth) {
    for (let lane = blocks[block + 2]!; lane < blocks[block + 3]!; lane++) {
      const at = lane * laneWidth
      const [sourcePage, destinationPage] = [lanes[at + 4]!, lanes[at + 5]!]
      const [bytes, runs] = [lanes[at + 6]!, lanes[at + 7]!]
      const [sourceStride, destinationStride] = [lanes[at + 8]!, lanes[at + 9]!]
      for (let group = blocks[block]!; group < blocks[block + 1]!; group++) {
        const row = group * groupWidth
        for (let page = 0; page < groups[row + 2]!; page++) {
          const source = lanes[at + 2]! + (groups[row]! + page) * sourcePage
          const destination = lanes[at + 3]! + (groups[row + 1]! + page) * destinationPage
          for (let run = 0; run < runs; run++) {
            copy(
              lanes[at]!,
              source + run * sourceStride,
              lanes[at + 1]!,
              destination + run * destinationStride,
              bytes,
            )
          }
        }
      }
    }
  }
}

function checkTables(plan: TransferPlan): void {
  if (typeof plan !== 'object' || (plan as unknown) === null)
    throw invalid('plan must be an object')
  const { lanes, groups, blocks } = plan
  if (!(lanes instanceof Float64Array)) throw invalid('lanes must be a Float64Array')
  if (!(groups instanceof Int32Array)) throw invalid('groups must be an Int32Array')
  if (!(blocks instanceof Int32Array)) throw invalid('blocks must be an Int32Array')
  for (const [name, { length }, width] of [
    ['lanes', lanes, laneWidth],
    ['groups', groups, groupWidth],
    ['blocks', blocks, blockWidth],
  ] as const) {
    if (length % width !== 0) throw invalid(`${name} must be rows of ${width} numbers`)
  }
  checkNumbers('lanes', lanes)
  checkNumbers('groups', groups)
  const [laneCount, groupCount] = [lanes.length / laneWidth, groups.length / groupWidth]
  for (let block = 0; block < blocks.length; block += blockWidth) {
    for (const [what, first, count] of [
      ['groups', block, groupCount],
      ['lanes', block + 2, laneCount],
    ] as const) {
      const [from, end] = [blocks[first]!, blocks[first + 1]!]
      if (from < 0 || from > end || end > count) {
        throw invalid(`a block names ${what} ${from} to ${end}, there are ${count}`)
      }
    }
  }
}

function checkNumbers(name: string, numbers: Float64Array | Int32Array): void {
  // 2 ** 53 is the largest that counts bytes exactly; native code takes it too.
  const wrong = numbers.find((one) => !(Number.isInteger(one) && one >= 0 && one <= 2 ** 53))
  if (wrong !== undefined) throw invalid(`${name} must be non-negative integers, got ${wrong}`)
}

function invalid(why: string): KvxError {
  return new KvxError('ERR_KVX_PLAN_INVALID', `The plan cannot be: ${why}.`)
}
