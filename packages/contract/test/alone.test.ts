/** Does the contract depend on nothing, and is there only one of it in a process? */
import { spawnSync } from 'node:child_process'
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import * as contract from '@kvx/contract'
import * as core from '@kvx/core'
import * as backend from '@kvx/core/backend'
import { allocate } from '@kvx/native'
import shm from '@kvx/shm'
import ts from 'typescript'
import { expect, test } from 'vitest'

const home = join(import.meta.dirname, '..')
const manifestOf = (folder: string): Record<string, object | undefined> =>
  JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'))
const installedBy = (folder: string) => {
  const { dependencies, optionalDependencies, peerDependencies } = manifestOf(folder)
  return Object.keys({ ...dependencies, ...optionalDependencies, ...peerDependencies })
}

test('the package depends on no other', () => {
  expect(installedBy(home)).toEqual([])
})

test('its source imports nothing but its own files, types and built-ins of Node included', () => {
  const files = readdirSync(join(home, 'src'), { recursive: true, encoding: 'utf8' })
  const sources = files.filter((file) => file.endsWith('.ts'))
  expect(sources).toContain('contract.ts')
  const imported = sources.flatMap((file) =>
    ts
      .preProcessFile(readFileSync(join(home, 'src', file), 'utf8'))
      .importedFiles.map(({ fileName }) => fileName),
  )
  expect(imported).toContain('./errors.ts')
  expect(imported.filter((name) => !name.startsWith('./'))).toEqual([])
})

test('it can be loaded where nothing else is installed', () => {
  const empty = mkdtempSync(join(tmpdir(), 'kvx-alone-'))
  try {
    const copy = join(empty, 'node_modules/@kvx/contract')
    cpSync(join(home, 'package.json'), join(copy, 'package.json'))
    cpSync(join(home, 'dist'), join(copy, 'dist'), { recursive: true })
    const program = `import * as contract from '@kvx/contract'; console.log(Object.keys(contract).sort().join())`
    const { stdout, stderr } = spawnSync(
      process.execPath,
      ['--input-type=module', '--eval', program],
      { cwd: empty, encoding: 'utf8' },
    )
    expect({ stdout, stderr }).toEqual({
      stdout: `${Object.keys(contract).sort().join()}\n`,
      stderr: '',
    })
  } finally {
    rmSync(empty, { recursive: true })
  }
})

test.each([
  ['@kvx/core', core],
  ['@kvx/core/backend', backend],
])('%s exports the very same objects', (_name, entry) => {
  const names = Object.keys(contract)
  expect(names).toContain('KvxError')
  for (const name of names) {
    expect(entry, name).toHaveProperty(name)
    expect((entry as Record<string, unknown>)[name], name).toBe(
      (contract as Record<string, unknown>)[name],
    )
  }
})

test('an error of core, of the native room or of an engine is an instance of the one KvxError', async () => {
  const context = { generation: 'a'.repeat(32), log: contract.silentLog }
  const errors = [
    await core.KVManager.open({} as never).catch((error: unknown) => error),
    await shm.open({ copyThreads: 0 }, context).catch((error: unknown) => error),
    thrownBy(() => allocate(-1)),
  ]
  for (const error of errors) {
    expect(error).toBeInstanceOf(contract.KvxError)
    expect(contract.isKvxError(error)).toBe(true)
  }
})

test.each([
  ['native', ['@kvx/contract']],
  ['shm', ['@kvx/contract', '@kvx/native']],
  ['mooncake', ['@kvx/contract', '@kvx/native', '@kvx/vendor']],
  ['mori', ['@kvx/contract', '@kvx/native', '@kvx/vendor']],
  ['vendor', ['@kvx/contract']],
])('@kvx/%s installs of kvx only %j', (name, expected) => {
  const names = installedBy(join(home, '..', name))
  expect(names.filter((other) => other.startsWith('@kvx/'))).toEqual(expected)
})

test('neither the control plane nor a schema library comes with the engine for one host', () => {
  const seen = new Set<string>()
  const visit = (name: string): void => {
    if (seen.has(name)) return
    seen.add(name)
    if (name.startsWith('@kvx/'))
      installedBy(join(home, '..', name.slice('@kvx/'.length))).forEach(visit)
  }
  visit('@kvx/shm')
  expect([...seen].sort()).toEqual([
    '@kvx/contract',
    '@kvx/native',
    '@kvx/shm',
    'node-addon-api',
    'node-api-headers',
    'node-gyp-build',
  ])
})

function thrownBy(action: () => unknown): unknown {
  try {
    action()
  } catch (error) {
    return error
  }
  return undefined
}
