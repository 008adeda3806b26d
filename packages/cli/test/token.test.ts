import { chmod, chown, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { isLoopback, newToken, resolveToken } from '../src/token.ts'

let folder = ''
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kvx-token-'))
})
afterEach(async () => {
  await rm(folder, { recursive: true })
})

const secret = 'a token for tests'

const resolve = (sources: Partial<Parameters<typeof resolveToken>[0]>) =>
  resolveToken({
    file: undefined,
    variable: undefined,
    host: '127.0.0.1',
    environment: { XDG_CONFIG_HOME: folder },
    ...sources,
  })

test('a file comes before the variable, and white space around a token is not part of it', async () => {
  const file = join(folder, 'secret')
  await writeFile(file, `  ${secret}\n`, { mode: 0o600 })
  expect(await resolve({ file, variable: 'other than the file' })).toBe(secret)
  expect(await resolve({ variable: ' other than the file ' })).toBe('other than the file')
})

test('workers of one user that start at once on loopback share one token, in a file only the user can read', async () => {
  const tokens = await Promise.all(Array.from({ length: 8 }, () => resolve({})))
  expect(new Set(tokens).size).toBe(1)
  const file = join(folder, 'kvx', 'token')
  expect((await stat(file)).mode & 0o777).toBe(0o600)
  expect((await readFile(file, 'utf8')).trim()).toBe(tokens[0])
  expect(await readdir(join(folder, 'kvx'))).toEqual(['token'])
  expect(await resolve({})).toBe(tokens[0])
})

test.each([0o644, 0o640, 0o620, 0o604])(
  'a token file of mode %o, shared or given, is refused with the chmod that mends it',
  async (mode) => {
    const file = join(folder, 'kvx', 'token')
    const token = await resolve({})
    await chmod(file, mode)
    for (const sources of [{}, { file }]) {
      await expect(resolve(sources)).rejects.toThrow(
        `The token file ${file} can be read or changed by other users: run chmod 600 on it.`,
      )
    }
    await chmod(file, 0o600)
    expect(await resolve({ file })).toBe(token)
  },
)

test.skipIf(process.getuid?.() !== 0)(
  'a token file of another user is refused (skipped unless root)',
  async () => {
    const file = join(folder, 'theirs')
    await writeFile(file, secret, { mode: 0o600 })
    await chown(file, 12_345, 0)
    await expect(resolve({ file })).rejects.toThrow(
      'belongs to another user (uid 12345; this is uid 0)',
    )
  },
)

test('a token that can be guessed is refused by the name of its source, and not told', async () => {
  const file = join(folder, 'short')
  await writeFile(file, 'fifteen bytes..', { mode: 0o600 })
  const refused = async (sources: Parameters<typeof resolve>[0]) => {
    const error: unknown = await resolve(sources).catch((cause: unknown) => cause)
    return (error as Error).message
  }
  const why = 'The token must have at least 16 bytes, got 15'
  const told = await Promise.all([refused({ file }), refused({ variable: 'fifteen bytes..' })])
  expect(told[0]).toContain(`The token file ${file}: ${why}`)
  expect(told[1]).toContain(`KVX_TOKEN: ${why}`)
  for (const text of told) expect(text).not.toContain('fifteen bytes')
})

test('an empty XDG_CONFIG_HOME counts as unset: the token is shared below the home folder', async () => {
  const token = await resolve({ environment: { XDG_CONFIG_HOME: '', HOME: folder } })
  expect((await readFile(join(folder, '.config', 'kvx', 'token'), 'utf8')).trim()).toBe(token)
})

test('where no shared token can be kept the way out is named', async () => {
  const file = join(folder, 'file')
  await writeFile(file, '')
  await expect(resolve({ environment: { XDG_CONFIG_HOME: file } })).rejects.toThrow(
    /cannot be kept in \S+\/file\/kvx\/token: not a directory\. Set KVX_TOKEN or give --token-file\.$/,
  )
})

test.each(['0.0.0.0', '10.0.0.1', '::', 'example.org'])(
  'a worker on %s must be given a token',
  async (host) => {
    await expect(resolve({ host })).rejects.toThrow(
      `A worker on ${host} can be reached from other machines and needs a token: set KVX_TOKEN or give --token-file.`,
    )
    expect(await resolve({ host, variable: secret })).toBe(secret)
    expect(await readdir(folder)).toEqual([])
  },
)

test('an empty token is no token', async () => {
  const file = join(folder, 'empty')
  await writeFile(file, '\n', { mode: 0o600 })
  await expect(resolve({ file })).rejects.toThrow('is empty')
  await expect(resolve({ variable: ' ' })).rejects.toThrow('is set but empty')
  await expect(resolve({ file: join(folder, 'none') })).rejects.toThrow('cannot be read')
})

test('only addresses of this machine are loopback', () => {
  for (const host of ['localhost', '127.0.0.1', '127.1.2.3', '::1', '[::1]']) {
    expect(isLoopback(host)).toBe(true)
  }
  for (const host of ['127.evil.org', '1.127.0.0.1', '::', '10.0.0.1', '']) {
    expect(isLoopback(host)).toBe(false)
  }
})

test('new tokens are 256 random bits', () => {
  expect(newToken()).toMatch(/^[0-9a-f]{64}$/)
  expect(newToken()).not.toBe(newToken())
})
