/** Is the engine of the README an engine? */
import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import ts from 'typescript'
import { afterAll, beforeAll, expect, test } from 'vitest'

const root = join(import.meta.dirname, '../../..')

/** Below the repository, where its imports are found. */
let folder = ''
beforeAll(() => {
  const cache = join(root, 'node_modules/.cache/kvx')
  mkdirSync(cache, { recursive: true })
  folder = mkdtempSync(join(cache, 'engine-'))
  writeFileSync(join(folder, 'package.json'), '{ "type": "module" }')
  const readme = readFileSync(join(import.meta.dirname, '../README.md'), 'utf8')
  writeFileSync(join(folder, 'engine.ts'), /^```ts\n([^]*?)^```$/m.exec(readme)?.[1] ?? '')
})
afterAll(() => {
  rmSync(folder, { recursive: true })
})

test('the engine that the README shows compiles as it is, and carries the example of two managers', () => {
  const config = ts.readConfigFile(join(root, 'tsconfig.base.json'), (file) =>
    ts.sys.readFile(file),
  )
  const { options } = ts.parseJsonConfigFileContent(config.config, ts.sys, root)
  const program = ts.createProgram([join(folder, 'engine.ts')], {
    ...options,
    composite: false,
    declaration: false,
    outDir: folder,
    rootDir: folder,
    typeRoots: [join(root, 'node_modules/@types')],
  })
  const { diagnostics } = program.emit()
  const problems = [...ts.getPreEmitDiagnostics(program), ...diagnostics]
  expect(problems.map(({ messageText }) => messageText)).toEqual([])

  const managers = readFileSync(join(root, 'examples/two-managers.mjs'), 'utf8')
  const withIt = managers.replace("backend: 'shm'", "backend: './engine.js'")
  expect(withIt).not.toBe(managers)
  writeFileSync(join(folder, 'main.mjs'), withIt)
  const { stdout, stderr, status } = spawnSync(process.execPath, [join(folder, 'main.mjs')], {
    encoding: 'utf8',
  })
  expect({ stderr, status }).toEqual({ stderr: '', status: 0 })
  expect(JSON.parse(stdout)).toEqual({ arrived: true, others: true, firstToken: 42, bytes: 8192 })
})
