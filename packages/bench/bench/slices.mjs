// What slices of heads cost: TP 4 to TP 2, in runs of 256 bytes to 4 KiB, beside TP 4 to TP 4, where as many bytes move in
// whole pages of 8 KiB. 80 layers of 8 KV heads, pages scattered over the pool, one process per rank.
//
//   node bench/slices.mjs [--tokens 8192] [--requests 6] [engine…]     default: shm mooncake
import { parseArgs } from 'node:util'
import { runSynthetic } from '@kvx/bench'

const { values, positionals } = parseArgs({
  options: {
    tokens: { type: 'string', default: '8192' },
    requests: { type: 'string', default: '6' },
    layers: { type: 'string', default: '80' },
  },
  allowPositionals: true,
})
const [tokens, requests, layers] = [values.tokens, values.requests, values.layers].map(Number)
const engines = positionals.length > 0 ? positionals : ['shm', 'mooncake']

/** Bytes of a head; the order and the tokens of a page, which make runs of so many bytes. */
const whole = { headBytes: 256, order: 'NHD', pageTokens: 16 }
const cases = [
  { run: 256, headBytes: 128, order: 'NHD', pageTokens: 16 },
  { run: 512, headBytes: 256, order: 'NHD', pageTokens: 16 },
  { run: 1024, headBytes: 256, order: 'HND', pageTokens: 2 },
  { run: 2048, headBytes: 256, order: 'HND', pageTokens: 4 },
  { run: 4096, headBytes: 256, order: 'HND', pageTokens: 8 },
]

function shapeOf(headBytes) {
  const tensors = Array.from({ length: layers }, (_, layer) =>
    ['k', 'v'].map((part) => ({
      ...{ layer, part, dtype: 'bf16', units: 8, unitBytes: headBytes, elementBytes: 2 },
    })),
  ).flat()
  return { model: 'slices', layers, components: [{ name: 'kv', addressed: 'tokens', tensors }] }
}

/** GB/s of the median request, without the first, which finds its peers. */
async function rateOf(backend, { headBytes, order, pageTokens }, tpSize) {
  const side = { order, pageTokens }
  const { ok, requests: reports } = await runSynthetic({
    ...{ model: shapeOf(headBytes), tokens, requests, backend, from: import.meta.url },
    ...{ prefill: { ...side, tpSize: 4 }, decode: { ...side, tpSize }, unverified: true },
    ...(backend === 'mooncake' && { backendOptions: { hostname: '127.0.0.1' } }),
    ...(backend === 'mori' && { backendOptions: { host: '127.0.0.1' } }),
  })
  if (!ok) throw new Error(JSON.stringify(reports))
  const rates = reports.slice(1).map(({ bytes, transferMs }) => bytes / transferMs / 1e6)
  return rates.sort((a, b) => a - b)[Math.floor(rates.length / 2)]
}

console.log(`${tokens} tokens, ${layers} layers, 8 heads; median of ${requests - 1} requests\n`)
console.log('| engine   | TP 4 to | a run, page      | GB/s  | of whole pages |')
console.log('| -------- | ------- | ---------------- | ----- | -------------- |')
const row = (...cells) => {
  const widths = [8, 7, 16, 5, 14]
  console.log(`| ${cells.map((cell, i) => cell.padEnd(widths[i])).join(' | ')} |`)
}
for (const backend of engines) {
  const best = await rateOf(backend, whole, 4)
  row(backend, 'TP 4', '8192 B, 16 NHD', best.toFixed(2), '1.00')
  for (const one of cases) {
    const rate = await rateOf(backend, one, 2)
    const page = `${one.run} B, ${one.pageTokens} ${one.order}`
    row(backend, 'TP 2', page, rate.toFixed(2), (rate / best).toFixed(2))
  }
}
