/**
 * Runs kvx on the GPUs of this machine: `node tools/gpu/suite.mjs [SECTION…]`. A section is a module in sections/ whose
 * `run(place)` answers { passed, lines, data }: whether it holds, what a person reads, what a program reads. Writes report.json
 * and report.md into $OUT, after every section, so that a run that is cut short leaves what it has.
 */
import { readdirSync, writeFileSync } from 'node:fs'
import { hostname, release } from 'node:os'
import { basename, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

const sectionFolder = fileURLToPath(new URL('sections/', import.meta.url))
const known = readdirSync(sectionFolder)
  .filter((name) => name.endsWith('.mjs'))
  .map((name) => basename(name, '.mjs'))
const wanted = process.argv.length > 2 ? process.argv.slice(2) : known
const unknown = wanted.filter((name) => !known.includes(name))
if (unknown.length > 0) {
  console.error(`unknown: ${unknown.join(', ')}. Sections: ${known.join(', ')}`)
  process.exit(2)
}
const out = process.env.OUT ?? '.'
const place = {
  root: fileURLToPath(new URL('../../', import.meta.url)),
  fake: (process.env.KVX_CUDA_LIBRARY ?? '').includes('fakecuda'),
}
const { gpus } = await import('@kvx/native')
const report = {
  machine: { host: hostname(), kernel: release(), node: process.version, fake: place.fake },
  gpus: await gpus(),
  sections: {},
}
for (const name of wanted) {
  const began = performance.now()
  let result
  try {
    const { run } = await import(pathToFileURL(join(sectionFolder, `${name}.mjs`)).href)
    result = await run(place)
  } catch (error) {
    result = { passed: false, lines: [String(error?.stack ?? error)], data: {} }
  }
  const seconds = Math.round((performance.now() - began) / 100) / 10
  report.sections[name] = { seconds, ...result }
  console.log(
    `${result.passed ? 'ok' : 'FAILED'} ${name} (${seconds} s)\n${result.lines.join('\n')}\n`,
  )
  write()
}
// At once: whatever a section has left behind must not keep this going.
process.exit(Object.values(report.sections).every(({ passed }) => passed) ? 0 : 1)

function write() {
  writeFileSync(join(out, 'report.json'), `${JSON.stringify(report, null, 1)}\n`)
  const names = report.gpus.list.map(({ name, uuid }) => `${name} (${uuid})`)
  const text = [
    `# kvx on ${names.join(', ') || `no GPU: ${report.gpus.reason}`}`,
    '',
    `Linux ${report.machine.kernel}, Node ${report.machine.node}, CUDA ${report.gpus.cuda}${place.fake ? ', on the fake driver' : ''}.`,
  ]
  for (const [name, { passed, seconds, lines }] of Object.entries(report.sections)) {
    text.push('', `## ${name}: ${passed ? 'passed' : 'FAILED'} (${seconds} s)`, '', ...lines)
  }
  writeFileSync(join(out, 'report.md'), `${text.join('\n')}\n`)
}
