import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import mooncake, { wheelSpec, type MooncakeOptions } from '@kvx/mooncake'
import { allocate } from '@kvx/native'
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import { installMooncake, loopback, openEngine } from './peer.ts'

vi.setConfig({ testTimeout: 60_000 })
let wheel: string
beforeAll(async () => {
  wheel = await installMooncake()
}, 300_000)

const scratch = mkdtempSync(join(tmpdir(), 'kvx-mooncake-'))
afterAll(() => {
  rmSync(scratch, { recursive: true })
})
afterEach(() => {
  vi.unstubAllEnvs()
})

/** The folder `mooncake` of a wheel that holds `content` as its library. */
function fakeWheel(name: string, content: string | Buffer, version?: string): string {
  const folder = join(scratch, name, 'mooncake')
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, 'engine.so'), content)
  if (version !== undefined)
    mkdirSync(join(scratch, name, `mooncake_transfer_engine-${version}.dist-info`))
  return folder
}

describe('metadata that would end the process is refused before Mooncake sees it', () => {
  test.each([
    'etcd://127.0.0.1:2379',
    '127.0.0.1:2379',
    'redis://127.0.0.1:6379',
    'zookeeper://127.0.0.1',
    'p2phandshake',
    'http://',
    'ftp://host/metadata',
    '',
  ])('%j', async (metadataServer) => {
    await expect(openEngine({ ...loopback, metadataServer })).rejects.toMatchObject({
      code: 'ERR_KVX_INVALID_OPTION',
      message: expect.stringMatching(/metadataServer.*(P2PHANDSHAKE|must not be empty)/) as string,
    })
  })
})

describe('a host name that Mooncake would take for something else is refused', () => {
  test.each([
    '',
    'host:1234',
    'a:b:c',
    '::1',
    '0.0.0.0',
    'with blank',
    'nul\0byte',
    'x'.repeat(300),
  ])('%j', async (hostname) => {
    await expect(openEngine({ hostname })).rejects.toMatchObject({ code: 'ERR_KVX_INVALID_OPTION' })
  })
})

test('an option that does not exist is named, with those that do', async () => {
  const options = { hostnam: 'x' } as MooncakeOptions
  await expect(openEngine(options)).rejects.toMatchObject({
    code: 'ERR_KVX_INVALID_OPTION',
    message: expect.stringMatching(/no option 'hostnam'.*hostname/) as string,
  })
})

test('a variable stands in for an option, and an option goes before it', async () => {
  vi.stubEnv('KVX_MOONCAKE_METADATA_SERVER', 'etcd://127.0.0.1')
  await expect(openEngine()).rejects.toThrow(
    /The variable KVX_MOONCAKE_METADATA_SERVER must be P2PHANDSHAKE/,
  )
  vi.stubEnv('KVX_MOONCAKE_METADATA_SERVER', '')
  vi.stubEnv('KVX_MOONCAKE_LIBRARY', '/nowhere/engine.so')
  await expect(openEngine()).rejects.toThrow(/nowhere/)
  await (await openEngine({ ...loopback, libraryPath: join(wheel, 'mooncake') })).close()
})

test('a variable of Mooncake that breaks what done promises is refused', async () => {
  vi.stubEnv('MC_TCP_PROTO', '1')
  await expect(openEngine()).rejects.toThrow(/MC_TCP_PROTO=1 makes Mooncake report.*Unset it/)
})

test('a host name by which the machine does not reach itself is refused with the reason', async () => {
  await expect(openEngine({ hostname: 'no-such-host.invalid' })).rejects.toMatchObject({
    code: 'ERR_KVX_BACKEND_UNAVAILABLE',
    message: expect.stringMatching(
      /does not reach itself by the hostname 'no-such-host.invalid'/,
    ) as string,
  })
})

test('a metadata server that does not answer is reported', async () => {
  const metadataServer = 'http://127.0.0.1:9/metadata'
  await expect(openEngine({ ...loopback, metadataServer })).rejects.toMatchObject({
    code: 'ERR_KVX_BACKEND_UNAVAILABLE',
    message: expect.stringMatching(/metadata server up/) as string,
  })
})

test('RDMA on a machine without a device is refused, and says what to do', async () => {
  const probe = await mooncake.probe({ protocol: 'rdma', devices: ['no_such_device'] })
  expect(probe.available).toBe(false)
  expect(probe.remedy).toMatch(/protocol 'tcp'/)
})

describe('a library that is none is refused with the reason', () => {
  test.each([
    ['a text', 'hello', /is cut short|is no shared library/],
    [
      'a library that was cut short',
      Buffer.from('\x7fELF\x02\x01\x01' + '\0'.repeat(9) + '\x03\0\x3e\0', 'latin1'),
      /is cut short/,
    ],
  ])('%s', async (name, content, reason) => {
    const libraryPath = fakeWheel(name, content)
    await expect(openEngine({ ...loopback, libraryPath })).rejects.toThrow(reason)
  })

  test('a shared library of somebody else', async () => {
    const libraryPath = process.report.getReport() as unknown as { sharedObjects: string[] }
    const libc = libraryPath.sharedObjects.find((path) => path.includes('libc.so')) ?? ''
    await expect(openEngine({ ...loopback, libraryPath: libc })).rejects.toThrow(
      /is not Mooncake's transfer engine/,
    )
  })

  test('a version below the floor, without loading it', async () => {
    const libraryPath = fakeWheel('old', 'never loaded', '0.3.10.post2')
    const probe = await mooncake.probe({ libraryPath })
    expect(probe.available).toBe(false)
    expect(probe.tried[0]?.reason).toMatch(/0\.3\.10\.post2 is too old; 0\.3\.12\.post1/)
  })

  test('a library whose calls end the process ends only a helper process', async () => {
    // It has Mooncake's name and marks, and exits as soon as an engine is made.
    const folder = fakeWheel('deadly', '')
    const names = [
      ...[
        'destroyTransferEngine',
        'installTransport',
        'getLocalIpAndPort',
        'registerLocalMemory',
        'unregisterLocalMemory',
      ],
      ...[
        'openSegment',
        'syncSegmentCache',
        'allocateBatchID',
        'submitTransfer',
        'getTransferStatus',
        'freeBatchID',
      ],
    ]
    const source =
      '#include <stdio.h>\n#include <stdlib.h>\nconst char* mark = "MC_TCP_STATUS_TIMEOUT_SEC";\n' +
      'void* createTransferEngine(void) { fputs("going down", stderr); abort(); }\n' +
      names.map((name) => `int ${name}(void) { return 0; }\n`).join('')
    const library = join(folder, 'libtransfer_engine.so')
    execFileSync('cc', ['-x', 'c', '-', '-shared', '-fPIC', '-o', library], { input: source })
    const probe = await mooncake.probe({ libraryPath: library })
    expect(probe.available).toBe(false)
    expect(probe.remedy).toMatch(/was ended by SIGABRT; this process was spared.*going down/)
    await expect(openEngine({ ...loopback, libraryPath: library })).rejects.toThrow(
      /was ended by SIGABRT/,
    )
  })
})

test('a wheel is only offered in versions and flavours that are known', () => {
  expect(wheelSpec({ flavour: 'cuda13' })).toMatchObject({ version: '0.3.14', flavour: 'cuda13' })
  expect(() => wheelSpec({ flavour: 'npu' })).toThrow(
    /no flavour 'npu'.*non-cuda, cuda, cuda13, rocm/,
  )
  expect(() => wheelSpec({ version: '0.3.11' })).toThrow(/too old.*Known are: 0\.3\.13\.post1/)
})

describe('memory and peers that cannot be are refused', () => {
  test('memory that is registered already', async () => {
    const engine = await openEngine()
    const memory = allocate(65536)
    await engine.register(memory)
    await expect(engine.register(memory)).rejects.toMatchObject({
      code: 'ERR_KVX_MEMORY',
      message: expect.stringMatching(/overlaps memory that is registered already/) as string,
    })
    await engine.close()
  })

  test('memory of a GPU, with a library for hosts alone', async () => {
    const engine = await openEngine()
    const memory = { address: 4096n, bytes: 4096, kind: 'cuda', device: 0 } as const
    await expect(engine.register(memory)).rejects.toMatchObject({ code: 'ERR_KVX_MEMORY' })
    await engine.close()
  })

  test.each([
    ['nothing', ''],
    ['no port', '\0\0\0\0\0\0\0\x01host'],
    ['a port that is no number', '\0\0\0\0\0\0\0\x01host:12ab'],
    ['a port out of range', '\0\0\0\0\0\0\0\x01host:70000'],
    ['a zero byte', '\0\0\0\0\0\0\0\x01ho\0st:1234'],
    ['bytes that are no text', '\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8\xf7\xf6'],
  ])('an address with %s', async (_, address) => {
    const engine = await openEngine()
    const peer = {
      generation: 'a'.repeat(32),
      address: Buffer.from(address, 'latin1'),
      regions: [],
    }
    await expect(engine.connect(peer, { timeoutMs: 5000 })).rejects.toMatchObject({
      code: 'ERR_KVX_CONNECT_FAILED',
      message: expect.stringMatching(/malformed/) as string,
    })
    await engine.close()
  })

  test('a descriptor of another length', async () => {
    const engine = await openEngine()
    const peer = {
      generation: 'a'.repeat(32),
      address: engine.address,
      regions: [new Uint8Array(11)],
    }
    await expect(engine.connect(peer)).rejects.toThrow(/descriptor of the peer is malformed/)
    await engine.close()
  })

  test('a peer at which nobody listens', async () => {
    const engine = await openEngine()
    const address = Buffer.concat([Buffer.alloc(8, 1), Buffer.from('127.0.0.1:9')])
    await expect(
      engine.connect({ generation: 'a'.repeat(32), address, regions: [] }),
    ).rejects.toMatchObject({
      code: 'ERR_KVX_CONNECT_FAILED',
      message: expect.stringMatching(/cannot be reached/) as string,
    })
    await engine.close()
  })

  test('a write to memory that the target has deregistered, which fails and settles', async () => {
    const [writer, owner] = [await openEngine(), await openEngine()]
    const [from, to] = [allocate(65536), allocate(65536)]
    await writer.register(from)
    const region = await owner.register(to)
    const { generation } = owner.identity
    const link = await writer.connect({
      generation,
      address: owner.address,
      regions: [region.descriptor],
    })
    await region.deregister()
    from.view(0, 65536).fill(1)
    const { done, settled } = link.write({
      lanes: Float64Array.from([0, 0, 0, 0, 65536, 65536, 65536, 1, 0, 0]),
      groups: Int32Array.from([0, 0, 1]),
      blocks: Int32Array.from([0, 1, 0, 1]),
    })
    await expect(done).rejects.toMatchObject({ code: 'ERR_KVX_TRANSFER_FAILED' })
    await settled
    expect(to.view(0, 65536).every((byte) => byte === 0)).toBe(true)
    await writer.close()
    await owner.close()
  })
})

test('memory of a GPU is refused where Mooncake was built without CUDA, with the flavour that has it', async () => {
  const engine = await openEngine()
  expect(engine.capabilities.memoryKinds).toEqual(['cpu'])
  const { address, bytes } = allocate(4096)
  for (const [kind, reason] of [
    [
      'cuda',
      /only cpu: this Mooncake was built without CUDA, which its flavour cuda13 or cuda has/,
    ],
    ['hip', /only cpu: this Mooncake was built without ROCm, which its flavour rocm has/],
  ] as const) {
    await expect(engine.register({ address, bytes, kind, device: 0 })).rejects.toMatchObject({
      code: 'ERR_KVX_MEMORY',
      message: expect.stringMatching(reason) as string,
    })
  }
  await engine.close()
  const { devicesNote } = await mooncake.probe(loopback)
  expect(devicesNote).toMatch(/^no memory of GPUs: this Mooncake was built without CUDA/)
})
