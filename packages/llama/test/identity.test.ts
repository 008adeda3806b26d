/** Is the identity of a model that of its whole content, and is it kept until the content changes? */
import { chmod, mkdir, mkdtemp, readdir, rm, stat, utimes, writeFile } from 'node:fs/promises'
import { appendFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, afterEach, beforeEach, expect, test, vi } from 'vitest'
import { LlamaModel } from '../src/index.ts'
import { identityOf } from '../src/models/identity.ts'
import { readModel } from '../src/models/parts.ts'
import { splitGguf, tinyModel, writeGguf, type Contents } from './support/gguf.ts'

const folders: string[] = []
let folder: string

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kvx-identity-'))
  folders.push(folder)
  vi.stubEnv('KVX_CACHE', join(folder, 'cache'))
  // Files are kept in mind once their last change is a while ago.
  const now = Date.now
  vi.spyOn(Date, 'now').mockImplementation(() => now() + 10_000)
})

afterEach(() => {
  vi.unstubAllEnvs()
  vi.restoreAllMocks()
})

afterAll(async () => {
  await Promise.all(folders.map((one) => rm(one, { recursive: true, force: true })))
})

async function write(name: string, bytes: Buffer): Promise<string> {
  const path = join(folder, name)
  await writeFile(path, bytes)
  return path
}

/** The identity, and how many bytes were read for it. */
async function identify(path: string): Promise<{ id: string; read: number }> {
  let read = 0
  const id = await identityOf(await readModel(path), ({ bytes }) => {
    read = bytes
  })
  return { id, read }
}

test('two models with the same header and size have different identities', async () => {
  const [one, two] = [writeGguf(tinyModel({ seed: 1 })), writeGguf(tinyModel({ seed: 2 }))]
  const paths = [await write('one.gguf', one), await write('two.gguf', two)] as const
  const [parts] = await readModel(paths[0])
  const header = parts?.gguf.tensors[0]?.offset ?? 0
  expect(header).toBeGreaterThan(4_000)
  expect(two.length).toBe(one.length)
  expect(two.subarray(0, header).equals(one.subarray(0, header))).toBe(true)
  const first = await LlamaModel.load({ path: paths[0] })
  const second = await LlamaModel.load({ path: paths[1] })
  try {
    expect(second.id).not.toBe(first.id)
    expect(second.cache.shape.model).not.toBe(first.cache.shape.model)
  } finally {
    await Promise.all([first.dispose(), second.dispose()])
  }
})

test('the same content has one identity, whatever the file is named', async () => {
  const bytes = writeGguf(tinyModel())
  const one = await identify(await write('one.gguf', bytes))
  expect(one.id).toMatch(/^[0-9a-f]{64}$/)
  expect((await identify(await write('two.gguf', bytes))).id).toBe(one.id)
})

test('one flipped bit of any tensor is another identity', async () => {
  const bytes = writeGguf(tinyModel())
  const path = await write('model.gguf', bytes)
  const parts = await readModel(path)
  const { id } = await identify(path)
  const tensors = parts[0]?.gguf.tensors ?? []
  const place = fc
    .constantFrom(...tensors)
    .chain(({ offset, bytes: size }) => fc.integer({ min: offset, max: offset + size - 1 }))
  await fc.assert(
    fc.asyncProperty(place, fc.integer({ min: 0, max: 7 }), async (at, bit) => {
      const damaged = Buffer.from(bytes)
      damaged[at] = (damaged[at] ?? 0) ^ (1 << bit)
      expect((await identify(await write('damaged.gguf', damaged))).id).not.toBe(id)
    }),
    { numRuns: 100 },
  )
})

test('another value of the metadata is another identity', async () => {
  const { id } = await identify(await write('a.gguf', writeGguf(tinyModel())))
  const changed = tinyModel({ values: [{ key: 'llama.rope.freq_base', type: 'f32', value: 5e5 }] })
  expect((await identify(await write('b.gguf', writeGguf(changed)))).id).not.toBe(id)
})

async function writeParts(contents: Contents, name: string, firstEmpty: boolean): Promise<string> {
  const parts = splitGguf(contents, 3, firstEmpty)
  const paths = await Promise.all(
    parts.map((bytes, i) => write(`${name}-0000${String(i + 1)}-of-00003.gguf`, bytes)),
  )
  return paths[0] ?? ''
}

test.each([false, true])(
  'a split model is loaded with the identity of the whole one (first part without tensors: %s)',
  async (firstEmpty) => {
    const { id } = await identify(await write('whole.gguf', writeGguf(tinyModel())))
    const split = await LlamaModel.load({ path: await writeParts(tinyModel(), 's', firstEmpty) })
    try {
      expect(split.id).toBe(id)
      expect(split.tokenize('a cat').length).toBeGreaterThan(1)
    } finally {
      await split.dispose()
    }
  },
)

test('other tensors in a later part of a split model are another identity', async () => {
  const one = await identify(await writeParts(tinyModel(), 'one', true))
  const two = await identify(await writeParts(tinyModel({ seed: 2 }), 'two', true))
  expect(two.id).not.toBe(one.id)
})

test('a file is read once, and again after it has changed, also with its old time', async () => {
  const bytes = writeGguf(tinyModel())
  const path = await write('model.gguf', bytes)
  const { atime, mtime } = await stat(path)
  const first = await identify(path)
  expect(first.read).toBeGreaterThan(100_000)
  expect(await identify(path)).toEqual({ id: first.id, read: 0 })

  bytes[bytes.length - 1] = (bytes.at(-1) ?? 0) ^ 1
  await writeFile(path, bytes)
  await utimes(path, atime, mtime)
  const second = await identify(path)
  expect(second.read).toBe(first.read)
  expect(second.id).not.toBe(first.id)
})

test('what has just been written is read again: a second change might not show', async () => {
  vi.restoreAllMocks()
  const path = await write('model.gguf', writeGguf(tinyModel()))
  const first = await identify(path)
  expect(await identify(path)).toEqual(first)
})

test('a cache that is damaged is computed again, and one that cannot be written does no harm', async () => {
  const path = await write('model.gguf', writeGguf(tinyModel()))
  const first = await identify(path)
  const digests = join(folder, 'cache', 'digests')
  const [entry = ''] = await readdir(digests)
  for (const text of ['', '{', 'null', '[]', '{"stamps":[],"digest":"x"}']) {
    await writeFile(join(digests, entry), text)
    expect(await identify(path)).toEqual(first)
  }
  expect((await identify(path)).read).toBe(0)
  expect(await readdir(digests)).toEqual([entry])

  vi.stubEnv('KVX_CACHE', await write('no-folder', Buffer.alloc(0)))
  expect(await identify(path)).toEqual(first)
  const locked = join(folder, 'locked')
  await mkdir(locked)
  await chmod(locked, 0o500)
  vi.stubEnv('KVX_CACHE', locked)
  expect(await identify(path)).toMatchObject({ id: first.id })
})

test('a file that changes while it is read is refused', async () => {
  const path = await write('model.gguf', writeGguf(tinyModel()))
  const parts = await readModel(path)
  let once = false
  const identity = identityOf(parts, () => {
    if (!once) appendFileSync(path, 'x')
    once = true
  })
  await expect(identity).rejects.toMatchObject({
    code: 'ERR_KVX_MODEL',
    message: expect.stringContaining(`${path} was changed while it was being read`) as string,
  })
})
