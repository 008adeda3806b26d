// One side of the benchmark with real managers: prefill also runs the bootstrap service. Tiny pages over shared
// memory, so that the control plane dominates.
import { randomBytes } from 'node:crypto'
import { BootstrapServer, KVManager, promptDigest } from '@kvx/core'
import { silentLog } from '@kvx/contract'
import { allocate } from '@kvx/native'

const [pageTokens, pageBytes, pages, layers] = [16, 256, 4, 2]
const tokens = pages * pageTokens
const digest = promptDigest(Array.from({ length: tokens }, (_, i) => i))

const tensors = Array.from({ length: 2 * layers }, (_, i) => ({
  layer: i >> 1,
  part: i % 2 === 0 ? 'k' : 'v',
  dtype: 'f16',
  units: 1,
  unitBytes: pageBytes / pageTokens,
}))
const shape = { model: 'bench', layers, components: [{ name: 'kv', addressed: 'tokens', tensors }] }

/** A pool with pages for so many lanes. */
const placeOf = (lanes) => ({
  components: { kv: { pageTokens, pages: lanes * pages } },
  tensors: tensors.map(({ layer, part }, i) => ({
    component: 'kv',
    layer,
    part,
    region: 0,
    base: i * lanes * pages * pageBytes,
    pageBytes,
    order: 'NHD',
  })),
})

/** Pages of a lane: its own, so that lanes do not meet. */
const pagesOf = (lane) => Int32Array.from({ length: pages }, (_, i) => lane * pages + i)

async function open(role, token, lanes, more = {}) {
  const place = placeOf(lanes)
  const memory = allocate(tensors.length * lanes * pages * pageBytes)
  const manager = await KVManager.open({
    role,
    backend: 'shm',
    from: import.meta.url,
    shape,
    place,
    memory: [memory],
    token,
    limits: { requests: 2 * lanes, ...(role === 'prefill' && { parkedPerPeer: lanes }) },
    log: silentLog,
    ...more,
  })
  return { manager, place, bytes: memory.view(0, memory.bytes) }
}

export async function openPrefill(token, lanes) {
  const bootstrap = await BootstrapServer.open({
    host: '127.0.0.1',
    port: 0,
    token,
    log: silentLog,
  })
  const opened = await open('prefill', token, lanes, { bootstrap: bootstrap.address })
  const { manager, bytes } = opened
  randomBytes(bytes.length).copy(bytes)
  return {
    address: bootstrap.address,
    moved: () => movedBytes(opened),
    async request(lane, room) {
      const sender = manager.send(room, { tokens, digest })
      await sender.reserved()
      await sender.write({ tokens: [0, tokens], pages: pagesOf(lane) })
      await sender.finish({ aux: { firstToken: 1 } })
      await sender.settled
    },
    async close() {
      await manager.close()
      await bootstrap.close()
    },
  }
}

/** `peers` managers: the first has pages for all lanes, the others for their share. */
export async function openDecode(token, address, lanes, peers) {
  const opened = []
  for (let peer = 0; peer < peers; peer++)
    opened.push(
      await open('decode', token, peer === 0 ? lanes : lanes / peers, {
        instance: `decode-${peer}`,
      }),
    )
  return {
    moved: () => movedBytes(opened[0]),
    /** Lanes are dealt to the first `among` managers in turn. */
    async request(lane, room, among) {
      const { manager } = opened[lane % among]
      const receiver = manager.receive(room, { from: address, tokens, digest })
      await receiver.reserve({ pages: pagesOf(Math.floor(lane / among)) })
      await receiver.done
      await receiver.settled
    },
    close: () => Promise.all(opened.map(({ manager }) => manager.close())),
  }
}

/** The bytes that one peer's requests have moved or received, of all tensors: all pages of its pool. */
function movedBytes({ bytes, place }) {
  const part = place.components.kv.pages * pageBytes
  return Buffer.concat(place.tensors.map(({ base }) => bytes.subarray(base, base + part)))
}
