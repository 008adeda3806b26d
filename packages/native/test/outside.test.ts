import { execFileSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import type { EngineBinding } from '@kvx/native'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { buildAddon } from './build.ts'
import { pair, reversed } from './faulty.ts'

let project: string

/** A package outside of this repository, in which @kvx/native is installed as it is published. */
beforeAll(async () => {
  project = mkdtempSync(join(tmpdir(), 'kvx-outside-'))
  cpSync(fileURLToPath(new URL('./outside/', import.meta.url)), project, { recursive: true })
  const installed = join(project, 'node_modules', '@kvx', 'native')
  mkdirSync(installed, { recursive: true })
  execFileSync(
    'npm',
    ['pack', '--ignore-scripts', '--loglevel=error', `--pack-destination=${project}`],
    { cwd: fileURLToPath(new URL('..', import.meta.url)), stdio: 'ignore' },
  )
  const archive = readdirSync(project).find((name) => name.endsWith('.tgz')) ?? 'no archive'
  execFileSync('tar', ['-xzf', join(project, archive), '-C', installed, '--strip-components=1'])
  const headers = createRequire(import.meta.url).resolve('node-addon-api/package.json')
  symlinkSync(dirname(headers), join(project, 'node_modules', 'node-addon-api'))
  await buildAddon(pathToFileURL(`${project}/`))
}, 400_000)

afterAll(() => {
  rmSync(project, { recursive: true, force: true })
})

test('an engine outside of this repository needs the published headers and flags only, and moves bytes', async () => {
  const addon = createRequire(import.meta.url)(
    join(project, 'build', 'Release', 'outside.node'),
  ) as EngineBinding
  const { connect, close, source, destination } = await pair(addon)
  const transfer = (await connect()).write(reversed)
  expect(await transfer.done).toEqual({ bytes: 4096, segments: 256 })
  for (let page = 0; page < 256; page++) {
    expect(destination.view((255 - page) * 16, 16)).toEqual(source.view(page * 16, 16))
  }
  await close()
})
