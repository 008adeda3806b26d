// npm run sanitize: the tests of the engine's parts (test/parts/) under the compiler's sanitizers.
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const packageFolder = fileURLToPath(new URL('..', import.meta.url))
const parts = fileURLToPath(new URL('parts/', import.meta.url))
const sources = readdirSync(parts)
  .filter((name) => name.endsWith('.cc'))
  .map((name) => join(parts, name))
const flags = ['-std=c++20', '-g', '-O1', '-pthread', `-I${join(packageFolder, 'include')}`]
const folder = mkdtempSync(join(tmpdir(), 'kvx-sanitize-'))
let failed = 0
try {
  for (const sanitizer of ['thread', 'address,undefined']) {
    const program = join(folder, sanitizer)
    execFileSync(
      process.env.CXX ?? 'c++',
      [...flags, `-fsanitize=${sanitizer}`, '-fno-sanitize-recover', ...sources, '-o', program],
      { stdio: 'inherit' },
    )
    const sentences = execFileSync(program, ['--list'], { encoding: 'utf8' }).trim().split('\n')
    for (const sentence of sentences) {
      const { status } = spawnSync(program, [sentence], { stdio: 'inherit', timeout: 300_000 })
      if (status === 0) continue
      console.log(`FAILED under -fsanitize=${sanitizer}: ${sentence}`)
      failed++
    }
    console.log(`-fsanitize=${sanitizer}: ${sentences.length} tests`)
  }
} finally {
  rmSync(folder, { recursive: true, force: true })
}
if (failed > 0) process.exitCode = 1
