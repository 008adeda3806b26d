import { chmod, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
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
  await writeFile(file, '  abc\n')
  expect(await resolve({ file, variable: 'other' })).toBe('abc')
  expect(await resolve({ variable: ' other ' })).toBe('other')
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

test('a shared file that others can read is refused', async () => {
  await resolve({})
  await chmod(join(folder, 'kvx', 'token'), 0o644)
  await expect(resolve({})).rejects.toThrow(/can be read by other users/)
})

test.each(['0.0.0.0', '10.0.0.1', '::', 'example.org'])(
  'a worker on %s must be given a token',
  async (host) => {
    await expect(resolve({ host })).rejects.toThrow(
      `A worker on ${host} can be reached from other machines and needs a token: set KVX_TOKEN or give --token-file.`,
    )
    expect(await resolve({ host, variable: 'abc' })).toBe('abc')
    expect(await readdir(folder)).toEqual([])
  },
)

test('an empty token is no token', async () => {
  const file = join(folder, 'empty')
  await writeFile(file, '\n')
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
