/** What do errors of other copies, and things that are no errors of kvx, become? */
import { errorTable, isKvxError, KvxError, toKvxError } from '@kvx/contract'
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
