// GPUs and their memory as JavaScript sees them, on the fake driver.
import { expect, test } from 'vitest'
import { allocate, gpus } from '@kvx/native'
import { addon } from '../dist/addon.js'
import { pin } from '../dist/tracked.js'
import { fakeCuda } from './fake-cuda.ts'

// Read once, when CUDA is first needed: before any test of this file.
process.env.KVX_CUDA_LIBRARY = fakeCuda

const code = (name: string) => expect.objectContaining({ name: 'KvxError', code: name }) as Error

test('the GPUs are listed with what tells them apart', async () => {
  expect(await gpus()).toEqual({
    cuda: 13000,
    list: [0, 1].map((ordinal) => ({
      ordinal,
      uuid: `GPU-${'8-4-4-4-12'.replace(/\d+/g, (n) => (ordinal === 0 ? 'a0' : 'a1').repeat(Number(n) / 2))}`,
      name: `Fake GPU ${String(ordinal)}`,
      computeCapability: '9.0',
      multiprocessors: 132,
      mps: false,
      allocatable: true,
      reaches: [true, true],
    })),
  })
})

test('memory of a GPU is zeroed, keeps what is written, and is on the GPU that was asked for', async () => {
  const memory = await allocate(10_000, { kind: 'cuda', device: 1 })
  expect(memory).toMatchObject({ bytes: 10_000, kind: 'cuda', device: 1 })
  expect(await memory.read(0, 10_000)).toEqual(new Uint8Array(10_000))
  await memory.write(9_997, Uint8Array.of(1, 2, 3))
  expect(await memory.read(9_995, 5)).toEqual(Uint8Array.of(0, 0, 1, 2, 3))
  expect(await memory.read(10_000, 0)).toHaveLength(0)
  await memory.free()
})

test('bytes outside the memory are refused', async () => {
  const memory = await allocate(4096, { kind: 'cuda' })
  for (const [offset, length] of [
    [0, 4097],
    [4096, 1],
    [-1, 1],
    [0.5, 1],
  ] as const) {
    await expect(memory.read(offset, length)).rejects.toThrow(code('ERR_KVX_INVALID_ARGUMENT'))
  }
  await expect(memory.write(4090, new Uint8Array(7))).rejects.toThrow(
    code('ERR_KVX_INVALID_ARGUMENT'),
  )
  await memory.free()
})

test('sizes and devices that are none are refused, and so is a GPU that is not there', async () => {
  const at = (bytes: number, device: number) => allocate(bytes, { kind: 'cuda', device })
  await expect(at(0, 0)).rejects.toThrow(code('ERR_KVX_INVALID_ARGUMENT'))
  await expect(at(4096, -1)).rejects.toThrow(code('ERR_KVX_INVALID_ARGUMENT'))
  await expect(at(4096, 0.5)).rejects.toThrow(code('ERR_KVX_INVALID_ARGUMENT'))
  await expect(at(4096, 7)).rejects.toThrow(code('ERR_KVX_BACKEND_UNAVAILABLE'))
  await expect(at(2 ** 52, 0)).rejects.toThrow(code('ERR_KVX_MEMORY'))
})

test('memory of a GPU cannot be freed while an engine has it registered, nor used afterwards', async () => {
  const memory = await allocate(4096, { kind: 'cuda' })
  const unpin = pin(memory)
  await expect(memory.free()).rejects.toThrow(code('ERR_KVX_INVALID_STATE'))
  unpin()
  await memory.free()
  await memory.free()
  await expect(memory.read(0, 1)).rejects.toThrow(code('ERR_KVX_INVALID_STATE'))
  expect(() => pin(memory)).toThrow(code('ERR_KVX_INVALID_STATE'))
})

test('a digest of tensors on the host and on both GPUs is that of the same bytes on the host', async () => {
  const bytes = Uint8Array.from({ length: 3 * 4096 }, (_, i) => (i * 7) ^ (i >> 5))
  const host = allocate(bytes.length)
  host.view(0, bytes.length).set(bytes)
  const onGpus = await Promise.all(
    [0, 1].map((device) => allocate(bytes.length, { kind: 'cuda', device })),
  )
  await Promise.all(onGpus.map((memory) => memory.write(0, bytes)))
  const job = (regions: readonly number[]) =>
    [
      4,
      Float64Array.from(
        regions.flatMap((region) => [region, 0, 4096, 4, 2, 0, 512, 512, 1024, 512, 512]),
      ),
      BigUint64Array.from(regions, (_, i) => BigInt(i)),
      Int32Array.of(1, 0, 8, 0),
    ] as const
  const digest = addon().digest
  const expected = await digest([host], ...job([0, 0, 0])).done
  const found = await digest([host, ...onGpus], ...job([1, 0, 2])).done
  expect(found).toEqual(expected)
  expect(
    new Set(Array.from({ length: 3 }, (_, i) => expected?.slice(16 * i, 16 * i + 16).join())).size,
  ).toBe(3)
  await Promise.all(onGpus.map((memory) => memory.free()))
  host.free()
})
