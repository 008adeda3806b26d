// `npm run bench:plan --workspace @kvx/core [-- --rounds N] [--only LAYERSxTOKENSxPAGE]`
//
// What planning costs the JavaScript thread: µs of processor time for one call of `Pairing.plan` with one chunk, all
// layers of a model with 8 KV heads of 128 numbers in BF16, whose pages are consecutive on both sides or scattered over
// both; between ranks of equal tensor parallelism and from TP 4 to TP 2. Then what native code needs for each piece when
// it expands such a plan. Cases take turns, round after round.
// Needs the built packages of this repository (`npm run setup`).
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { cpus, tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { Pairing } from '@kvx/core/bytes'
import { placeOf, ranksOf, shapeOf } from '@kvx/bench'

const { values } = parseArgs({
  options: { rounds: { type: 'string', default: '11' }, only: { type: 'string', default: '' } },
})
const rounds = Math.max(1, Number(values.rounds))

const models = { 32: 'llama-3.1-8b', 64: 'qwen3-32b', 80: 'llama-3.1-70b' }
const ways = ['contiguous', 'scattered'].flatMap((order) =>
  [
    ['same TP', 4, 4],
    ['TP4 to TP2', 4, 2],
  ].map(([name, from, to]) => ({ order, name, from, to })),
)

/** Every page once, none beside the one before it. */
function scattered(count, step) {
  let by = Math.max(2, Math.floor(count * step))
  while (gcd(by, count) !== 1) by++
  return Int32Array.from({ length: count }, (_, i) =>
    Number((BigInt(i) * BigInt(by)) % BigInt(count)),
  )
}

const gcd = (a, b) => (b === 0 ? a : gcd(b, a % b))

function caseOf({ layers, tokens, pageTokens, order, name, from, to }) {
  const shape = shapeOf(models[layers])
  const pages = Math.ceil(tokens / pageTokens)
  const side = (tpSize) => {
    const [rank] = ranksOf({ tpSize }, shape.layers)
    return { rank, ...placeOf(shape, rank, { pageTokens, pages, tensorsPerRegion: 1 }) }
  }
  const [source, destination] = [side(from), side(to)]
  const pairing = new Pairing(shape, source, destination)
  const inOrder = Int32Array.from({ length: pages }, (_, i) => i)
  const parts = [
    {
      ...{ component: 'kv', prompt: { tokens, prefix: 0 }, first: 0 },
      source: order === 'contiguous' ? inOrder : scattered(pages, 0.618),
      destination: order === 'contiguous' ? inOrder : scattered(pages, 0.382),
    },
  ]
  return { layers, tokens, pageTokens, order, name, run: () => pairing.plan(parts).plan }
}

const cases = [32, 64, 80].flatMap((layers) =>
  [1_024, 8_192, 131_072].flatMap((tokens) =>
    [1, 16, 64]
      .filter((page) => `${layers}x${tokens}x${page}`.startsWith(values.only))
      .flatMap((pageTokens) => ways.map((way) => caseOf({ layers, tokens, pageTokens, ...way }))),
  ),
)

const microseconds = (work, times) => {
  const before = process.cpuUsage()
  for (let i = 0; i < times; i++) work()
  const { user, system } = process.cpuUsage(before)
  return (user + system) / times
}

/** So many calls that a round of a case takes some 20 ms. */
const timesOf = new Map(
  cases.map((one) => {
    microseconds(one.run, 20)
    return [one, Math.max(5, Math.ceil(20_000 / Math.max(1, microseconds(one.run, 20))))]
  }),
)

const samples = new Map(cases.map((one) => [one, []]))
for (let round = 0; round < rounds; round++) {
  for (const one of cases) samples.get(one).push(microseconds(one.run, timesOf.get(one)))
}

const quantile = (numbers, q) =>
  [...numbers].sort((a, b) => a - b)[Math.round((numbers.length - 1) * q)]
const digits = (number) => number.toFixed(number < 9.95 ? 1 : 0)
const spread = (numbers) => {
  const [low, median, high] = [0, 0.5, 1].map((q) => digits(quantile(numbers, q)))
  return `${median} [${low} … ${high}]`
}

console.log(`node ${process.version}, ${cpus().length} × ${cpus()[0]?.model ?? 'unknown CPU'}`)
console.log(
  `${rounds} interleaved rounds; median [least … greatest]; µs of processor time for one plan\n`,
)
const head = ['layers', 'tokens', 'page', ...ways.map(({ order, name }) => `${name}, ${order}`)]
console.log(`| ${head.join(' | ')} |\n|${head.map(() => ' --- |').join('')}`)
for (let i = 0; i < cases.length; i += ways.length) {
  const { layers, tokens, pageTokens } = cases[i]
  const cells = cases.slice(i, i + ways.length).map((one) => spread(samples.get(one)))
  console.log(`| ${[layers, tokens.toLocaleString('en'), pageTokens, ...cells].join(' | ')} |`)
}

/** Native code, compiled for this run: nanoseconds of each round, to check a plan and per piece that it expands to. */
function native(program, { lanes, groups, blocks }) {
  const bytes = (array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength)
  const counts = BigUint64Array.from([lanes, groups, blocks].map(({ length }) => BigInt(length)))
  const input = [counts, BigUint64Array.of(BigInt(rounds)), lanes, groups, blocks].map(bytes)
  const lines = execFileSync(program, { input: Buffer.concat(input), encoding: 'utf8' })
  const rows = lines
    .trim()
    .split('\n')
    .map((line) => line.split(' ').map(Number))
  return {
    pieces: rows[0][0],
    check: rows.map(([, check]) => check / 1_000),
    piece: rows.map(([pieces, , expand]) => expand / pieces),
  }
}

const folder = mkdtempSync(join(tmpdir(), 'kvx-bench-'))
try {
  const path = (name) => fileURLToPath(new URL(name, import.meta.url))
  const program = join(folder, 'expand')
  const flags = ['-std=c++20', '-O2', `-I${path('../../native/include')}`]
  const source = path('../../native/bench/expand.cc')
  execFileSync(process.env.CXX ?? 'c++', [...flags, source, '-o', program], { stdio: 'inherit' })
  console.log(`\nnative code, for 8,192 tokens at page 16\n`)
  console.log(
    '| layers | plan | pieces | check, µs | ns per piece |\n| --- | --- | --- | --- | --- |',
  )
  for (const layers of Object.keys(models).map(Number)) {
    for (const way of ways) {
      const { run, name, order } = caseOf({ layers, tokens: 8_192, pageTokens: 16, ...way })
      const { pieces, check, piece } = native(program, run())
      const cells = [pieces.toLocaleString('en'), spread(check), spread(piece)]
      console.log(`| ${[layers, `${name}, ${order}`, ...cells].join(' | ')} |`)
    }
  }
} finally {
  rmSync(folder, { recursive: true, force: true })
}
