/** What do errors of other copies, and things that are no errors of kvx, become? */
import { readFileSync } from 'node:fs'
import { errorTable, isKvxError, KvxError, systemReason, toKvxError } from '@kvx/contract'
import { expect, test } from 'vitest'

test('an error of another copy of the package is known by its name and code', () => {
  const foreign = Object.assign(new Error('x'), { name: 'KvxError', code: 'ERR_KVX_TIMEOUT' })
  expect(isKvxError(foreign)).toBe(true)
  expect(toKvxError(foreign)).toBe(foreign)
  expect(isKvxError(Object.assign(new Error('x'), { name: 'KvxError', code: 'ERR_OTHER' }))).toBe(
    false,
  )
})

test('anything else becomes the cause of a KvxError, which knows whether to try again', () => {
  const cause = new Error('socket hang up')
  const error = toKvxError(cause, 'ERR_KVX_TRANSFER_FAILED', {
    phase: 'transfer',
    peer: 'decode-0',
  })
  expect(error).toMatchObject({
    code: 'ERR_KVX_TRANSFER_FAILED',
    cause,
    phase: 'transfer',
    peer: 'decode-0',
  })
  expect(error.retryable).toBe(errorTable.ERR_KVX_TRANSFER_FAILED.retryable)
  expect(new KvxError('ERR_KVX_PLAN_INVALID', 'x').retryable).toBe(false)
})

test.each<[string, () => unknown, string]>([
  ['a code that does not exist', () => new KvxError('ERR_NO' as never, 'x'), 'code must be'],
  ['no code', () => new KvxError(undefined as never, 'x'), 'got undefined.'],
  ['a name of every object', () => new KvxError('toString' as never, 'x'), 'got "toString".'],
  [
    'no text',
    () => new KvxError('ERR_KVX_TIMEOUT', 5 as never),
    'message must be a string, got 5.',
  ],
  [
    'options that are null',
    () => new KvxError('ERR_KVX_TIMEOUT', 'x', null as never),
    'options must be an object, got null.',
  ],
  ['toKvxError with another code', () => toKvxError(1, 'ERR_NO' as never), 'got "ERR_NO".'],
])('an error cannot be made with %s', (_, make, message) => {
  expect(make).toThrow(
    expect.objectContaining({
      code: 'ERR_KVX_INVALID_ARGUMENT',
      message: expect.stringContaining(message) as string,
    }),
  )
})

test.each([undefined, null, Symbol('odd'), 7n, Object.create(null), () => 0])(
  'whatever is thrown becomes a KvxError with a text: %#',
  (thrown) => {
    const error = toKvxError(thrown)
    expect(error.code).toBe('ERR_KVX_INTERNAL')
    expect(error.cause).toBe(thrown)
    expect(error.message).not.toBe('')
  },
)

test('of an error of the system its words are told, and of whatever else was thrown what it says', () => {
  const reasonOf = (fail: () => unknown): string => {
    try {
      fail()
    } catch (cause) {
      return systemReason(cause)
    }
    return 'nothing failed'
  }
  expect(reasonOf(() => readFileSync('/nowhere/at all'))).toBe('no such file or directory')
  expect(systemReason(new Error('as it is'))).toBe('as it is')
  for (const thrown of [undefined, null, Symbol('odd'), 7n, Object.create(null), () => 0])
    expect(systemReason(thrown)).not.toBe('')
})
