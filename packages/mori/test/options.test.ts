import { expect, test } from 'vitest'
import { checkOptions } from '../src/options.ts'
import { overrides } from '../src/environment.ts'

test('without options and variables the defaults hold', () => {
  expect(checkOptions({}, {})).toMatchObject({ qpPerTransfer: 4, postBatchSize: -1, numWorkers: 1 })
  expect(checkOptions({}, {}).host).toMatch(/^\d+\.\d+\.\d+\.\d+$/)
})

test('an option goes before its KVX_ variable, that before the alias of SGLang, that before the default', () => {
  const sglang = {
    SGLANG_MORI_QP_PER_TRANSFER: '2',
    SGLANG_MORI_POST_BATCH_SIZE: '16',
    SGLANG_MORI_NUM_WORKERS: '3',
  }
  expect(checkOptions({}, sglang)).toMatchObject({
    qpPerTransfer: 2,
    postBatchSize: 16,
    numWorkers: 3,
  })
  const both = { ...sglang, KVX_MORI_QP_PER_TRANSFER: '8' }
  expect(checkOptions({}, both).qpPerTransfer).toBe(8)
  expect(checkOptions({ qpPerTransfer: 5 }, both).qpPerTransfer).toBe(5)
})

test('an empty variable counts as not set', () => {
  expect(
    checkOptions({}, { KVX_MORI_QP_PER_TRANSFER: '', SGLANG_MORI_QP_PER_TRANSFER: '6' })
      .qpPerTransfer,
  ).toBe(6)
})

test('devices, host and library can be given by variables', () => {
  expect(
    checkOptions(
      {},
      {
        KVX_MORI_DEVICES: 'mlx5_0,mlx5_1',
        KVX_MORI_HOST: '10.0.0.1',
        KVX_MORI_LIBRARY: '/opt/mori',
      },
    ),
  ).toMatchObject({ devices: ['mlx5_0', 'mlx5_1'], host: '10.0.0.1', libraryPath: '/opt/mori' })
})

test.each([
  [{ qpPerTransfer: 0 }, /qpPerTransfer.*at least 1/],
  [{ qpPerTransfer: 1.5 }, /qpPerTransfer.*whole/],
  [{ qpPerTransfer: NaN }, /qpPerTransfer/],
  [{ postBatchSize: 0 }, /postBatchSize.*-1 or 1/],
  [{ numWorkers: 65 }, /numWorkers.*at most 64/],
  [{ devices: [] }, /devices/],
  [{ devices: ['^mlx5_0'] }, /devices.*names/],
  [{ devices: ['a,b'] }, /devices.*names/],
  [{ host: 'localhost' }, /host.*IPv4/],
  [{ host: '::1' }, /host.*IPv4/],
  [{ host: '' }, /host/],
  [{ libraryPath: '' }, /libraryPath/],
  [{ backendType: 'tcp' }, /no option 'backendType'.*qpPerTransfer/],
  [{ pollCqMode: 1 }, /no option 'pollCqMode'/],
  [7, /must be an object/],
])('the options %j are refused with the reason', (options, reason) => {
  expect(() => checkOptions(options, {})).toThrow(reason)
})

test('a bad variable is named in the message', () => {
  expect(() => checkOptions({}, { SGLANG_MORI_NUM_WORKERS: 'many' })).toThrow(
    /SGLANG_MORI_NUM_WORKERS/,
  )
  expect(() => checkOptions({}, { KVX_MORI_HOST: 'decode-7' })).toThrow(/KVX_MORI_HOST.*IPv4/)
})

test('variables of MORI that override an option are told, each with what it stands against', () => {
  expect(
    overrides({ MORI_IO_QP_PER_TRANSFER: '3', MORI_IO_POST_BATCH_SIZE: '1', MORI_IO_SL: '0' }),
  ).toEqual([
    {
      variable: 'MORI_IO_QP_PER_TRANSFER',
      message: expect.stringContaining('qpPerTransfer') as string,
    },
    {
      variable: 'MORI_IO_POST_BATCH_SIZE',
      message: expect.stringContaining('postBatchSize') as string,
    },
  ])
})
