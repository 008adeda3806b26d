/** Does an error that ends a request at one side reach the other as what it is? */
import { afterEach, expect, test } from 'vitest'
import { KvxError } from '@kvx/contract'
import { promptDigest } from '../src/shape/index.ts'
import { openLegs, openPair } from './support/pair.ts'

const open: { close(): Promise<void> }[] = []
afterEach(async () => {
  for (const one of open.splice(0)) await one.close()
})

const request = { tokens: 8, digest: promptDigest([1, 2, 3, 4, 5, 6, 7, 8]) }
const room = 1n

/** Both legs of a request, paired. */
async function paired() {
  const side = await openPair({
    prefill: { instance: 'prefill-a' },
    decode: { instance: 'decode-a' },
  })
  open.push(side)
  const { receiver, sender } = await openLegs(side, room, request, [1, 2])
  receiver.done.catch(() => undefined)
  const told = async (leg: 'sender' | 'receiver') => {
    const one = leg === 'sender' ? sender : receiver
    await one.settled
    return one.error
  }
  return { ...side, sender, receiver, told }
}

const causes = [
  new KvxError('ERR_KVX_POOL_EXHAUSTED', 'No page became free.'),
  new KvxError('ERR_KVX_MODEL', 'The model ended.', { phase: 'decode' }),
]

test.each(causes)(
  'an error with which prefill ends a request is the same at decode: $code',
  async (cause) => {
    const { sender, told } = await paired()
    sender.abort(cause)
    const { code, message, retryable } = cause
    const same = { code, message, retryable, phase: cause.phase ?? 'transfer', peer: 'prefill-a' }
    expect(sender.error).toMatchObject({ ...same, cause })
    expect(await told('receiver')).toMatchObject({ ...same, rank: 'tp0/pp0/cp0/dp0' })
  },
)

test.each(causes)(
  'an error with which decode ends a request is the same at prefill: $code',
  async (cause) => {
    const { receiver, told } = await paired()
    receiver.abort(cause)
    const { code, message, retryable } = cause
    const same = { code, message, retryable, phase: cause.phase ?? 'transfer', peer: 'decode-a' }
    expect(receiver.error).toMatchObject({ ...same, cause })
    expect(await told('sender')).toMatchObject({ ...same, rank: 'tp0/pp0/cp0/dp0' })
  },
)

test('an error about somebody else names that one on both sides', async () => {
  const { receiver, told } = await paired()
  const about = { phase: 'bootstrap', peer: 'a scheduler', rank: 'tp3/pp0/cp0/dp0' } as const
  receiver.abort(new KvxError('ERR_KVX_PEER_LOST', 'It is gone.', about))
  expect(await told('sender')).toMatchObject({ code: 'ERR_KVX_PEER_LOST', ...about })
})

test('a text with which a request is ended says that somebody wanted it so', async () => {
  const { sender, told } = await paired()
  sender.abort('the client went away')
  expect(await told('receiver')).toMatchObject({
    code: 'ERR_KVX_ABORTED',
    message: 'the client went away',
    retryable: false,
  })
})

test('an error that is none of kvx is a defect of the host, and what it says is cut to what a message may carry', async () => {
  const { sender, told } = await paired()
  const thrown: unknown = new TypeError('x'.repeat(10_000))
  sender.abort(thrown as Error)
  const error = await told('receiver')
  expect(error).toMatchObject({ code: 'ERR_KVX_INTERNAL', phase: 'transfer' })
  expect(error?.message).toMatch(/^x{1000,1999}…$/)
})

test.each([
  ['prefill', 'receiver', 'prefill-a'],
  ['decode', 'sender', 'decode-a'],
] as const)(
  'a %s manager that closes says so, and the request may be tried elsewhere',
  async (role, leg, peer) => {
    const side = await paired()
    void side[role].close()
    expect(await side.told(leg)).toMatchObject({
      code: 'ERR_KVX_CLOSED',
      message: `The ${role} manager was closed.`,
      retryable: true,
      peer,
    })
  },
)
