// For sections/mooncake.mjs. argv: the library, and places as JSON ('cpu' or the ordinal of a GPU). A line for each pair of them.
import mooncake from '@kvx/mooncake'
import { runTransferBench } from '@kvx/bench'

const [libraryPath, text] = process.argv.slice(2)
const places = JSON.parse(text)
const backendOptions = { hostname: '127.0.0.1', libraryPath }
const { available, library, devicesNote, tried } = await mooncake.probe(backendOptions)
console.log(`- ${library ?? 'no library'}; ${devicesNote}`)
for (const { what, reason } of tried) console.log(`- ${what}: ${reason}`)
if (!available) process.exit(1)
const KiB = 1024
for (const from of places) {
  for (const to of places) {
    const report = await runTransferBench({
      ...{ backend: 'mooncake', from: import.meta.url, backendOptions, memory: [from, to] },
      ...{ runs: [64 * KiB, 1024 * KiB], sizes: [64 * 1024 * KiB], repetitions: 3 },
    })
    const rows = report.rows.map(
      ({ run, median }) =>
        `${run === undefined ? 'one piece' : `${run / KiB} KiB`} ${median.toFixed(2)}`,
    )
    console.log(
      `- ${from} → ${to}: ${report.ok ? 'every byte right' : '**WRONG**'}; GB/s: ${rows.join(', ')}`,
    )
    if (!report.ok) process.exitCode = 1
  }
}
