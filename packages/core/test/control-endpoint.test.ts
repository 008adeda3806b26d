import { readdirSync } from 'node:fs'
import { expect, test, vi } from 'vitest'
import { Dealer } from 'zeromq'
import { formatEndpoint, isHost, parseEndpoint } from '../src/control/endpoint.ts'
import { cleanup, openClient, openServer } from './control-helpers.ts'

const label = 'a'.repeat(63)

test.each([
  'localhost',
  'prefill-0.prefill.default.svc.cluster.local',
  'A1',
  '3com.example',
  `${label}.${label}.${label}.${label.slice(2)}`,
  '127.0.0.1',
  '::1',
  'fe80::1',
])('%s is a host, and an endpoint with it can be connected to', (host) => {
  expect(isHost(host)).toBe(true)
  const endpoint = formatEndpoint(host, 1)
  expect(parseEndpoint(endpoint)).toEqual({ host, port: 1 })
  const socket = new Dealer({ ipv6: host.includes(':'), linger: 0 })
  cleanup(() => {
    socket.close()
  })
  socket.connect(endpoint)
})

test.each([
  '',
  '!x',
  '-x',
  'x-',
  'a..b',
  'a.',
  'a_b',
  'a b',
  '*',
  'é',
  '[::1]',
  ':::',
  '256.0.0.1',
  '1.2.3',
  '127.0.0.1;127.0.0.1',
  `${label}a`,
  `${label}.${label}.${label}.${label}`,
])('%j is no host, and no endpoint has it', (host) => {
  expect(isHost(host)).toBe(false)
  expect(parseEndpoint(`tcp://${host}:1`)?.host).not.toBe(host)
})

const isLinux = process.platform === 'linux'
const handles = () => readdirSync('/proc/self/fd').length

test.skipIf(!isLinux)(
  'a client that cannot connect leaves no file handle behind (skipped unless Linux)',
  async () => {
    const { server } = await openServer()
    const { up } = openClient(server.endpoint)
    await up()
    const before = handles()
    const refusal = vi.spyOn(Dealer.prototype, 'connect').mockImplementation(() => {
      throw new Error('Invalid argument')
    })
    cleanup(() => {
      refusal.mockRestore()
    })
    for (let i = 0; i < 50; i++) {
      expect(() => openClient('tcp://127.0.0.1:1')).toThrow(
        expect.objectContaining({
          code: 'ERR_KVX_CONNECT_FAILED',
          message: 'No socket could be made for tcp://127.0.0.1:1: Invalid argument.',
        }),
      )
    }
    await expect.poll(handles, { timeout: 20_000 }).toBeLessThanOrEqual(before + 5)
  },
)

test.skipIf(!isLinux)(
  'a process can have many clients, and those that are closed leave no file handle behind (skipped unless Linux)',
  async () => {
    const { server } = await openServer()
    const { up } = openClient(server.endpoint)
    await up()
    const before = handles()
    // Three sockets each: more than the 1,023 that libzmq allows by itself.
    const many = Array.from({ length: 400 }, () => openClient('tcp://127.0.0.1:1').client)
    expect(handles()).toBeGreaterThan(before + 1_000)
    for (const client of many) client.close()
    await expect.poll(handles, { timeout: 20_000 }).toBeLessThanOrEqual(before + 5)
  },
)
