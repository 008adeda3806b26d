// npm run sanitize [SENTENCE…]: the tests in C++ under the compiler's sanitizers: those of the engine's parts (test/parts/), and those of
// GPU memory (test/gpu/) on the driver of test/fake-cuda/. All, or those whose sentence contains one of the words.
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const packageFolder = fileURLToPath(new URL('..', import.meta.url))
const wanted = process.argv.slice(2)
/** Of a folder beside this file. */
const sourcesOf = (name) => {
  const folder = fileURLToPath(new URL(`${name}/`, import.meta.url))
  return readdirSync(folder)
    .filter((file) => file.endsWith('.cc') && file !== 'beside.cc') // a library for Python
    .map((file) => join(folder, file))
}
const flags = ['-std=c++20', '-g', '-O1', '-pthread', `-I${join(packageFolder, 'include')}`]
const folder = mkdtempSync(join(tmpdir(), 'kvx-sanitize-'))
let failed = 0
try {
  for (const sanitizer of ['thread', 'address,undefined']) {
    const build = (name, more = []) => {
      const target = join(folder, `${sanitizer}-${name}`)
      const given = [...flags, `-fsanitize=${sanitizer}`, '-fno-sanitize-recover', ...more]
      const compiler = process.env.CXX ?? 'c++'
      execFileSync(compiler, [...given, ...sourcesOf(name), '-o', target], { stdio: 'inherit' })
      return target
    }
    const KVX_CUDA_LIBRARY = build('fake-cuda', ['-shared', '-fPIC'])
    for (const name of ['parts', 'gpu']) {
      const program = build(name)
      const sentences = execFileSync(program, ['--list'], { encoding: 'utf8' })
        .trim()
        .split('\n')
        .filter((sentence) => wanted.length === 0 || wanted.some((word) => sentence.includes(word)))
      for (const sentence of sentences) {
        const { status, signal } = spawnSync(program, [sentence], {
          env: { ...process.env, KVX_CUDA_LIBRARY },
          stdio: 'inherit',
          timeout: 600_000,
        })
        if (status === 0) continue
        console.log(`FAILED (${signal ?? status}) under -fsanitize=${sanitizer}: ${sentence}`)
        failed++
      }
      console.log(`-fsanitize=${sanitizer}, ${name}: ${sentences.length} tests`)
    }
  }
} finally {
  rmSync(folder, { recursive: true, force: true })
}
if (failed > 0) process.exitCode = 1
