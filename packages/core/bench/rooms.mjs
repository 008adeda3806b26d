// One side of the benchmark with real managers: prefill also runs the bootstrap service. Tiny pages over shared
// memory, so that the control plane dominates.
import { randomBytes } from 'node:crypto'
import { BootstrapServer, KVManager, promptDigest } from '@kvx/core'
import { silentLog } from '@kvx/core/backend'
import { allocate } from '@kvx/native'

const [pageTokens, pageBytes, pages, poolPages, layers] = [16, 256, 4, 1024, 2]
const tokens = pages * pageTokens
const digest = promptDigest(Array.from({ length: tokens }, (_, i) => i))

const layout = {
  model: 'bench',
  pageTokens,
  layers,
  heads: 1,
  pages: { kv: poolPages },
  tensors: Array.from({ length: 2 * layers }, (_, i) => ({
    component: 'kv',
    layer: i >> 1,
    part: i % 2 === 0 ? 'k' : 'v',
    dtype: 'f16',
    region: 0,
    base: i * poolPages * pageBytes,
    pageBytes,
    heads: [0, 1],
    headBytes: pageBytes / pageTokens,
    order: 'token-major',
  })),
}

/** Pages of a lane: its own, so that lanes do not meet. */
const pagesOf = (lane) => Int32Array.from({ length: pages }, (_, i) => lane * pages + i)

async function open(role, token, bootstrap) {
  const memory = allocate(layout.tensors.length * poolPages * pageBytes)
  const manager = await KVManager.open({
    role,
    backend: 'shm',
    from: import.meta.url,
    layout,
    memory: [memory],
    token,
    ...(bootstrap && { bootstrap }),
    log: silentLog,
  })
  return { manager, bytes: memory.view(0, memory.bytes) }
}

export async function openPrefill(token) {
  const bootstrap = await BootstrapServer.open({
    host: '127.0.0.1',
    port: 0,
    token,
    log: silentLog,
  })
  const { manager, bytes } = await open('prefill', token, bootstrap.address)
  randomBytes(bytes.length).copy(bytes)
  return {
    address: bootstrap.address,
    bytes,
    async request(lane, room) {
      const sender = manager.send(room, { tokens, digest })
      await sender.reserved()
      await sender.write({ start: 0, pages: pagesOf(lane) })
      await sender.finish({ aux: { firstToken: 1 } })
      await sender.settled
    },
    async close() {
      await manager.close()
      await bootstrap.close()
    },
  }
}

export async function openDecode(token, address) {
  const { manager, bytes } = await open('decode', token)
  return {
    bytes,
    async request(lane, room) {
      const receiver = manager.receive(room, { from: address, tokens, digest })
      await receiver.reserve({ pages: pagesOf(lane) })
      await receiver.done
      await receiver.settled
    },
    close: () => manager.close(),
  }
}

/** The bytes that requests have moved or received, of all tensors. */
export function movedBytes(bytes, lanes) {
  const part = lanes * pages * pageBytes
  return Buffer.concat(layout.tensors.map(({ base }) => bytes.subarray(base, base + part)))
}
