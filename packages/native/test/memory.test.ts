import {
  fstatSync,
  mkdtempSync,
  openSync,
  closeSync,
  readSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { adopt, allocate } from '@kvx/native'
import { expect, test } from 'vitest'

const code = (name: string) => expect.objectContaining({ name: 'KvxError', code: name }) as Error

test('allocated memory is zeroed, page-aligned, and its file holds the same bytes', () => {
  const memory = allocate(10_000)
  expect(memory).toMatchObject({ bytes: 10_000, kind: 'cpu', device: 0 })
  expect(memory.address % 4096n).toBe(0n)
  expect(memory.view(0, 10_000).every((byte) => byte === 0)).toBe(true)
  memory.view(9_990, 10).fill(7)
  const fromFile = Buffer.alloc(10)
  readSync(memory.fd, fromFile, 0, 10, 9_990)
  expect(fromFile).toEqual(Buffer.alloc(10, 7))
  expect(fstatSync(memory.fd).size).toBeGreaterThanOrEqual(10_000)
  memory.free()
})

test('two views of the same bytes see each other', () => {
  const memory = allocate(4096)
  memory.view(100, 8)[3] = 42
  expect(memory.view(0, 4096)[103]).toBe(42)
  expect(memory.view(4096, 0)).toHaveLength(0)
  memory.free()
})

test('views outside the memory are refused', () => {
  const memory = allocate(4096)
  for (const [offset, length] of [
    [0, 4097],
    [4096, 1],
    [-1, 1],
    [0.5, 1],
    [0, -1],
    [2 ** 53, 2 ** 53],
    [NaN, 1],
    [0, NaN],
  ] as const) {
    expect(() => memory.view(offset, length)).toThrow(code('ERR_KVX_INVALID_ARGUMENT'))
  }
  memory.free()
})

test('sizes that are no positive whole number are refused', () => {
  for (const bytes of [0, -1, 1.5, NaN, Infinity, '4096' as unknown as number]) {
    expect(() => allocate(bytes)).toThrow(code('ERR_KVX_INVALID_ARGUMENT'))
  }
})

test('a place that is none is refused, and not taken for a GPU', () => {
  const anyhow = allocate as (bytes: number, where?: unknown) => unknown
  for (const where of [0, null, 'cuda', {}, { kind: 'cpu' }]) {
    expect(() => anyhow(4096, where)).toThrow(code('ERR_KVX_INVALID_ARGUMENT'))
  }
})

test('more memory than the address space holds is refused by name', () => {
  expect(() => allocate(2 ** 52)).toThrow(code('ERR_KVX_MEMORY'))
})

test('after free, calls throw, views that are still around read zeros, and a second free does nothing', () => {
  const memory = allocate(1 << 20)
  const view = memory.view(0, 1 << 20).fill(9)
  memory.free()
  memory.free()
  expect(() => memory.view(0, 1)).toThrow(code('ERR_KVX_INVALID_STATE'))
  expect(view.every((byte) => byte === 0)).toBe(true)
  view[5] = 1
  expect(view[5]).toBe(1)
  expect(() => fstatSync(memory.fd)).toThrow(/EBADF/)
})

test('memory beyond 4 GiB is reached by views of their own', () => {
  const bytes = 5 * 2 ** 30 // not touched, so it costs nothing
  const memory = allocate(bytes)
  memory.view(bytes - 4, 4).set([1, 2, 3, 4])
  expect([...memory.view(bytes - 3, 3)]).toEqual([2, 3, 4])
  expect(() => memory.view(0, bytes)).toThrow(code('ERR_KVX_INVALID_ARGUMENT'))
  memory.free()
})

test('adopted memory is the memory of the file, and stays when this side frees it', () => {
  const owner = allocate(10_000)
  const adopted = adopt(owner.fd, 8000)
  expect(adopted).toMatchObject({ bytes: 8000, kind: 'cpu', device: 0 })
  expect(adopted.address).not.toBe(owner.address)
  expect(adopted.fd).not.toBe(owner.fd)
  adopted.view(7990, 10).fill(7)
  expect([...owner.view(7989, 3)]).toEqual([0, 7, 7])
  expect(() => adopted.view(8000, 1)).toThrow(code('ERR_KVX_INVALID_ARGUMENT'))
  adopted.free()
  expect(() => adopted.view(0, 1)).toThrow(code('ERR_KVX_INVALID_STATE'))
  expect([...owner.view(7989, 3)]).toEqual([0, 7, 7])
  owner.free()
})

test('what is no sealed memory file of that length is not adopted', () => {
  const owner = allocate(4096)
  expect(() => adopt(owner.fd, 4097)).toThrow(/only 4096 bytes/)
  for (const fd of [-1, 0.5, 2 ** 31, '1' as unknown as number]) {
    expect(() => adopt(fd, 4096)).toThrow(code('ERR_KVX_INVALID_ARGUMENT'))
  }
  expect(() => adopt(owner.fd, 0)).toThrow(code('ERR_KVX_INVALID_ARGUMENT'))
  expect(() => adopt(2 ** 31 - 1, 4096)).toThrow(code('ERR_KVX_MEMORY'))
  owner.free()
  const folder = mkdtempSync(join(tmpdir(), 'kvx-'))
  try {
    const file = join(folder, 'file')
    writeFileSync(file, Buffer.alloc(4096))
    const fd = openSync(file, 'r+')
    expect(() => adopt(fd, 4096)).toThrow(/sealed against shrinking/)
    closeSync(fd)
  } finally {
    rmSync(folder, { recursive: true })
  }
})
