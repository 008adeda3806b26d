import { expect, test } from 'vitest'
import { PrefillHosts } from '../src/worker/prefill-hosts.ts'

const names: Record<string, readonly string[]> = {
  'prefill-1': ['10.1.2.3'],
  inside: ['10.1.2.3', 'fd00::7'],
  rebinds: ['10.1.2.3', '127.0.0.1'],
  localhost: ['127.0.0.1', '::1'],
}
const lookUp = (name: string) => {
  const found = names[name]
  return found === undefined ? Promise.reject(new Error('ENOTFOUND')) : Promise.resolve(found)
}
const refused = { code: 'ERR_KVX_INVALID_OPTION', phase: 'open' }

test.each([
  ['10.0.0.0/8', '10.255.0.1', '10.255.0.1'],
  ['10.1.2.3', '10.1.2.3', '10.1.2.3'],
  ['fd00::/8', 'fd12::1', 'fd12::1'],
  ['10.0.0.0/8 fd00::/8', 'inside', '10.1.2.3'],
  ['127.0.0.0/8 ::1', 'localhost', '127.0.0.1'],
  ['10.0.0.0/8', '::ffff:10.0.0.1', '::ffff:10.0.0.1'],
  // A name that is listed is trusted, and so is its address.
  ['prefill-1', 'PREFILL-1', '10.1.2.3'],
  ['prefill-1', '10.1.2.3', '10.1.2.3'],
] as const)(
  'with %s the host %s is allowed, and its checked address is used',
  async (allowed, host, address) => {
    const look = (name: string) => lookUp(name.toLowerCase())
    expect(await new PrefillHosts(allowed.split(' '), look).addressOf(host)).toBe(address)
  },
)

test.each([
  ['10.0.0.0/8', '11.0.0.1'],
  ['10.0.0.0/8', 'inside'],
  ['10.0.0.0/8', 'rebinds'],
  ['10.0.0.0/8', 'no-such-name'],
  ['10.0.0.0/8', '::ffff:127.0.0.1'],
  ['prefill-1', '10.1.2.4'],
  ['prefill-1', 'rebinds'],
  ['127.0.0.0/8 ::1', '169.254.169.254'],
] as const)('with %s the host %s is refused, in the same words', async (allowed, host) => {
  const error: unknown = await new PrefillHosts(allowed.split(' '), lookUp)
    .addressOf(host)
    .catch((e: unknown) => e)
  expect(error).toMatchObject(refused)
  const other: unknown = await new PrefillHosts([], lookUp)
    .addressOf('192.0.2.1')
    .catch((e: unknown) => e)
  expect((error as Error).message).toBe((other as Error).message)
})

test.each(['10.0.0.0/33', 'fd00::/129', '10.0.0/8', '10.0.0.0/', 'a b', '', '10.0.0.0/8/8'])(
  "'%s' is no host",
  (entry) => {
    expect(() => new PrefillHosts([entry])).toThrow(/--prefill-hosts takes names/)
  },
)

test.each(['127.0.0.1', 'localhost', '::1', '[::1]', '127.1.2.3'])(
  'a worker on %s takes loopback only',
  async (host) => {
    const hosts = PrefillHosts.byDefault(host)
    expect(await hosts.addressOf('127.0.0.1')).toBe('127.0.0.1')
    await expect(hosts.addressOf('10.0.0.1')).rejects.toMatchObject(refused)
  },
)

test('a worker on another address takes any host unless it is told, at the address that was looked up', async () => {
  const hosts = PrefillHosts.byDefault('10.0.0.1', lookUp)
  expect(await hosts.addressOf('192.0.2.1')).toBe('192.0.2.1')
  expect(await hosts.addressOf('2001:db8::1')).toBe('2001:db8::1')
  expect(await hosts.addressOf('inside')).toBe('10.1.2.3')
  await expect(hosts.addressOf('no-such-name')).rejects.toMatchObject(refused)
})
