/** What would end or hang a process that uses MORI: here the host lives, and the message says what to do. */
import { execFileSync } from 'node:child_process'
import { fstatSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { KvxError, silentLog, type Log } from '@kvx/contract'
import mori, { wheelSpec, type MoriOptions } from '@kvx/mori'
import { allocate } from '@kvx/native'
import { installWheel } from '@kvx/vendor'
import { afterEach, expect, onTestFinished, test } from 'vitest'
import { checkOptions } from '../src/options.ts'
import { preflight } from '../dist/preflight.js'
import { control, forkPeer, open, pages, useMori } from './support/mori.ts'

useMori()

const limit = { timeout: 60_000 }
const all = 0xffffffff

afterEach(() => {
  control.set('refuse', 0)
})

/** Sets a variable for the test. */
function variable(name: string, value: string): void {
  const before = process.env[name]
  process.env[name] = value
  onTestFinished(() => {
    if (before === undefined) Reflect.deleteProperty(process.env, name)
    else process.env[name] = before
  })
}

/** What a helper process found is kept by options: each test looks anew with a number of its own. */
let fresh = 10
const look = (options: MoriOptions = {}, log?: Log) =>
  open({ qpPerTransfer: fresh++, ...options }, log)

async function refusal(options: MoriOptions = {}): Promise<KvxError> {
  const error: unknown = await look(options).then(
    (engine) => engine.close(),
    (reason: unknown) => reason,
  )
  if (!(error instanceof KvxError)) throw new Error('The engine was opened.')
  return error
}

async function works(options: MoriOptions = {}): Promise<void> {
  const engine = await look(options)
  const memory = allocate(8192)
  memory.view(0, 4096).fill(5)
  const region = await engine.register(memory)
  const { generation } = engine.identity
  const link = await engine.connect({
    generation,
    address: engine.address,
    regions: [region.descriptor],
  })
  const plan = pages(4096, 1)
  plan.lanes[3] = 4096 // to the second page
  await link.write(plan).done
  expect(memory.view(4096, 4096).every((byte) => byte === 5)).toBe(true)
  await engine.close()
}

function compiled(name: string, source: string): string {
  const folder = mkdtempSync(join(tmpdir(), 'kvx-mori-smi-'))
  onTestFinished(() => {
    rmSync(folder, { recursive: true })
  })
  const path = join(folder, name)
  execFileSync('cc', ['-shared', '-fPIC', '-x', 'c', '-', '-o', path], { input: source })
  return path
}

const rocmSmi = (init: string, count: number): string => `
  #include <stdint.h>
  #include <stdlib.h>
  #include <unistd.h>
  int rsmi_init(uint64_t flags) { ${init} }
  int rsmi_num_monitor_devices(uint32_t *n) { *n = ${String(count)}; return 0; }
  int rsmi_shut_down(void) { return 0; }`

test.each([
  ['whose start fails', 'return 8;', 1, /rsmi_init returned 8/],
  ['that counts no GPU', 'return 0;', 0, /counts no GPU/],
  ['that ends the process', 'exit(3);', 1, /ended the helper/],
  ['that aborts the process', 'abort();', 1, /ended the helper/],
])(
  "ROCm's management library %s is replaced by a stand-in",
  limit,
  async (_, init, count, reason) => {
    variable('MORI_ROCM_SMI_PATH', compiled('librocm_smi64.so.1', rocmSmi(init, count)))
    const { tried, available } = await mori.probe({ qpPerTransfer: fresh++ })
    expect(available).toBe(true)
    expect(tried.find(({ what }) => what === 'rocm-smi')?.reason).toMatch(reason)
    await works()
  },
)

test("ROCm's management library that does not load is replaced by a stand-in", limit, async () => {
  variable('MORI_ROCM_SMI_PATH', '/nowhere/librocm_smi64.so.1')
  await works()
})

test(
  'a helper process that hangs is ended by its deadline, and the step is told',
  limit,
  async () => {
    variable('MORI_ROCM_SMI_PATH', compiled('librocm_smi64.so.1', rocmSmi('for (;;) pause();', 1)))
    const { folder } = await installWheel(wheelSpec())
    const library = { path: join(folder, 'mori/libmori_io.so'), version: '1.2.4' }
    const found = await preflight({ options: checkOptions({}), library }, 5000)
    expect(found.rocmSmi).toMatch(/ended the helper/)
  },
)

test('a device that is not on a PCI bus is refused, not searched for ever', limit, async () => {
  const path = join(tmpdir(), 'kvx-mori-plain-device')
  mkdirSync(path, { recursive: true })
  variable('KVX_FAKE_VERBS_PATH', path)
  const { code, message } = await refusal()
  expect(code).toBe('ERR_KVX_BACKEND_UNAVAILABLE')
  expect(message).toMatch(/fake0.*not on a PCI bus.*docs\/engines\/mori\.md/)
})

test('a host that is no address of this machine is refused', limit, async () => {
  const { code, message } = await refusal({ host: '192.0.2.1' })
  expect(code).toBe('ERR_KVX_BACKEND_UNAVAILABLE')
  expect(message).toMatch(/192\.0\.2\.1: it is no address of this machine.*KVX_MORI_HOST/)
})

test(
  'a device that registers no memory at all is refused with the limit to raise',
  limit,
  async () => {
    control.set('refuse', all)
    const { code, message } = await refusal()
    expect(code).toBe('ERR_KVX_BACKEND_UNAVAILABLE')
    expect(message).toMatch(/cannot be registered.*fake0.*Cannot allocate memory/)
  },
)

// Of the region, of two buffers of a queue pair, of the region by MORI.
test.each([2, 3, 4, 7])(
  'the failure of registration %i ends a helper process only',
  limit,
  async (n) => {
    control.set('refuse', n)
    const { code, message } = await refusal()
    expect(['ERR_KVX_BACKEND_UNAVAILABLE', 'ERR_KVX_MEMORY']).toContain(code)
    expect(message).toMatch(/helper process.*SIGABRT.*registering memory|cannot be registered/)
    control.set('refuse', 0)
    await works() // nothing of it is left in this process
  },
)

test('memory that cannot be registered is refused, and the engine goes on', limit, async () => {
  const engine = await look()
  onTestFinished(() => engine.close())
  control.set('refuse', all)
  await expect(engine.register(allocate(1 << 20))).rejects.toMatchObject({
    code: 'ERR_KVX_MEMORY',
    message: expect.stringMatching(/1048576 bytes.*Cannot allocate memory/) as string,
  })
  control.set('refuse', 0)
  await expect(engine.register(allocate(1 << 20))).resolves.toMatchObject({ bytes: 1 << 20 })
})

test(
  'a registration that fails half way is refused, and the same memory can be registered afterwards',
  limit,
  async () => {
    const engine = await look()
    onTestFinished(() => engine.close())
    const memory = allocate(1 << 20)
    const before = control.get('regions')
    control.set('noQueuePairs', 1)
    await expect(engine.register(memory)).rejects.toMatchObject({ code: 'ERR_KVX_MEMORY' })
    control.set('noQueuePairs', 0)
    expect(control.get('regions')).toBe(before)
    await expect(engine.register(memory)).resolves.toMatchObject({ bytes: 1 << 20 })
  },
)

test('the same memory cannot be registered twice', limit, async () => {
  const engine = await look()
  onTestFinished(() => engine.close())
  const memory = allocate(1 << 20)
  await engine.register(memory)
  await expect(engine.register({ ...memory, view: () => new Uint8Array() })).rejects.toMatchObject({
    code: 'ERR_KVX_MEMORY',
  })
})

test('event mode, which closes the standard input, is refused', limit, async () => {
  variable('MORI_IO_POLL_CQ_MODE', 'event')
  expect((await refusal()).message).toMatch(/MORI_IO_POLL_CQ_MODE.*Unset it/)
  expect(() => fstatSync(0)).not.toThrow()
})

test('garbage on the control port does no harm', limit, async () => {
  const peer = await forkPeer([1 << 20])
  const engine = await look()
  onTestFinished(() => engine.close())
  await engine.register(allocate(1 << 20))
  for (const bytes of [
    'GET / HTTP/1.0\r\n\r\n',
    '\0\xff\xff\xff\xff',
    '\0\0\0\0\x03\x01\x02\x03',
    '\x01\0\0\0\x03\xc1\x02\x03',
  ]) {
    const socket = connect(controlPort(peer.address.address), '127.0.0.1')
    socket.on('error', () => undefined)
    await new Promise((resolve) =>
      socket.end(Buffer.from(bytes, 'latin1'), () => {
        resolve(undefined)
      }),
    )
  }
  const link = await engine.connect(peer.address)
  await expect(link.write(pages(4096, 1)).done).resolves.toMatchObject({ bytes: 4096 })
})

/** The address: a format byte, five texts with their lengths in front, then the port. */
function controlPort(address: Uint8Array): number {
  const bytes = Buffer.from(address)
  let at = 1
  for (let i = 0; i < 5; i++) at += 4 + bytes.readUInt32LE(at)
  return bytes.readInt32LE(at)
}

test.each([
  ['an offset near 2^53', 2 ** 53 - 4096],
  ['an offset near 2^64', 2 ** 64 - 4096],
  ['a negative offset', -4096],
])('%s in a plan is refused before MORI sees it', limit, async (_, base) => {
  const peer = await forkPeer([1 << 20])
  const engine = await look()
  onTestFinished(() => engine.close())
  await engine.register(allocate(1 << 20))
  const link = await engine.connect(peer.address)
  const plan = pages(4096, 1)
  plan.lanes[3] = base
  await expect(link.write(plan).done).rejects.toMatchObject({ code: 'ERR_KVX_PLAN_INVALID' })
  await expect(link.write(pages(4096, 1)).done).resolves.toMatchObject({ bytes: 4096 })
})

test(
  'a variable of MORI that overrides an option is told in the log, and so is the fake libibverbs',
  limit,
  async () => {
    variable('MORI_IO_POST_BATCH_SIZE', '8')
    const warnings: string[] = []
    const engine = await look({}, { ...silentLog, warn: (_, message) => warnings.push(message) })
    await engine.close()
    expect(warnings).toEqual([
      expect.stringContaining('MORI_IO_POST_BATCH_SIZE=8') as string,
      expect.stringContaining('FAKE libibverbs') as string,
    ])
  },
)

test('a wrong value of KVX_MORI_VERBS is refused', async () => {
  variable('KVX_MORI_VERBS', 'simulated')
  await expect(open()).rejects.toMatchObject({ code: 'ERR_KVX_INVALID_OPTION' })
  expect(await mori.probe()).toMatchObject({ available: false })
})

test('the oldest supported version works as well', { timeout: 120_000 }, async () => {
  const { folder } = await installWheel(wheelSpec({ version: '1.2.2' }))
  expect(await mori.probe({ libraryPath: join(folder, 'mori') })).toMatchObject({
    available: true,
    version: '1.2.2',
  })
})
