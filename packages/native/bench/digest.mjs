// `npm run bench --workspace @kvx/native [-- --rounds N]`
//
// How fast one core computes digests (`TransferEngine.digest`): of 256 MiB in scattered pages of 16 tokens, 8 units per
// row. Beside it, in the same round, the CRC-32 of the same pages and a copy of the same bytes; the ratios are those of
// each round, since the machine changes between rounds. Seconds are those of processor time.
import { parseArgs } from 'node:util'
import { addon } from '../dist/addon.js'
import { allocate } from '../dist/index.js'

const { values } = parseArgs({ options: { rounds: { type: 'string', default: '7' } } })
const rounds = Math.max(1, Number(values.rounds))
const bytes = 2 ** 28
const [pageTokens, units] = [16, 8]

const [memory, copy] = [allocate(bytes), allocate(bytes)]
const view = memory.view(0, bytes)
for (let i = 0, x = 1; i < bytes; i++) {
  x = (Math.imul(x, 1_664_525) + 1_013_904_223) >>> 0
  view[i] = x >>> 24
}
copy.view(0, bytes).set(view)

const cases = [
  { order: 'NHD', unitBytes: 64 },
  { order: 'NHD', unitBytes: 128 },
  { order: 'NHD', unitBytes: 256 },
  { order: 'NHD', unitBytes: 512 },
  { order: 'NHD', unitBytes: 1_024 },
  { order: 'NHD', unitBytes: 1_152 },
  { order: 'HND', unitBytes: 128 },
  { order: 'HND', unitBytes: 256 },
  { order: 'HDN', unitBytes: 256 },
]

console.log('order  unit bytes  digest GB/s  of crc32  of memcpy')
for (const { order, unitBytes } of cases) {
  const pageBytes = pageTokens * units * unitBytes
  const pages = scattered(Math.floor(bytes / pageBytes))
  const moved = pages.length * pageBytes
  const tables = {
    tensors: Float64Array.of(
      ...[0, 0, pageBytes, pageTokens, units, 0, unitBytes, order === 'HDN' ? 2 : unitBytes],
      ...strides(order, unitBytes),
    ),
    runs: new Int32Array(pages.flatMap((page, i) => [page, 0, pageTokens, i * pageTokens])),
    lanes: Float64Array.of(0, 0, pageBytes, pageBytes, 1, 0),
  }
  const seen = { digest: [], crc32: [], memcpy: [] }
  for (let round = 0; round < rounds; round++) {
    const digest = () =>
      addon().digest([memory], pageTokens, tables.tensors, BigUint64Array.of(1n), tables.runs).done
    seen.digest.push(await speed(moved, digest))
    const crc32 = () => addon().checksum([memory], tables.lanes, Int32Array.from(pages))
    seen.crc32.push(await speed(moved, crc32))
    seen.memcpy.push(await speed(bytes, () => copy.view(0, bytes).set(view)))
  }
  const ratio = (other) => median(seen.digest.map((value, i) => value / seen[other][i]))
  const columns = [unitBytes, median(seen.digest).toFixed(1)].map((text) => `${text}`.padStart(11))
  const ratios = ['crc32', 'memcpy'].map((other) => `${ratio(other).toFixed(2)} ×`.padStart(10))
  console.log(`${order.padEnd(5)}${columns.join('  ')}${ratios.join(' ')}`)
}

/** Bytes from one row, unit and element to the next. */
function strides(order, unitBytes) {
  if (order === 'NHD') return [units * unitBytes, unitBytes, unitBytes]
  if (order === 'HND') return [unitBytes, pageTokens * unitBytes, unitBytes]
  return [2, pageTokens * unitBytes, 2 * pageTokens]
}

function scattered(count) {
  const pages = Array.from({ length: count }, (_, i) => i)
  for (let i = count - 1, x = 7; i > 0; i--) {
    x = (Math.imul(x, 1_664_525) + 1_013_904_223) >>> 0
    const j = x % (i + 1)
    ;[pages[i], pages[j]] = [pages[j], pages[i]]
  }
  return pages
}

async function speed(moved, work) {
  const before = process.cpuUsage()
  await work()
  const { user, system } = process.cpuUsage(before)
  return moved / (user + system) / 1e3
}

function median(list) {
  return [...list].sort((a, b) => a - b)[list.length >> 1]
}
