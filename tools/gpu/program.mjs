/** The tests of GPU memory in C++ (packages/native/test/gpu): their sentences, and what became of each. */
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'

/** Runs those whose sentence `wanted` accepts; each in a process of its own, because CUDA's state is the process'. */
export function runSentences({ root }, wanted) {
  const program = join(root, 'test/gpu/build/Release/gpu')
  const list = spawnSync(program, ['--list'], { encoding: 'utf8' })
  if (list.status !== 0) throw new Error(`${program}: ${list.error?.message ?? list.stderr}`)
  const data = list.stdout
    .trim()
    .split('\n')
    .filter(wanted)
    .map((sentence) => {
      const began = performance.now()
      const { status, signal, stderr } = spawnSync(program, [sentence], {
        encoding: 'utf8',
        timeout: 120_000,
      })
      const ms = Math.round(performance.now() - began)
      return {
        sentence,
        passed: status === 0,
        ms,
        ...(status === 0 ? {} : { status, signal, stderr }),
      }
    })
  const lines = data.map(
    ({ sentence, passed, ms, stderr }) =>
      `- ${passed ? 'passed' : `**FAILED** (${stderr?.trim()})`}: ${sentence} (${ms} ms)`,
  )
  return { passed: data.length > 0 && data.every(({ passed }) => passed), lines, data }
}

/** Those that break the process' CUDA context on purpose. */
export const isAboutErrors = (sentence) =>
  /^(an error that CUDA cannot recover from|a digest that fails)/.test(sentence)
