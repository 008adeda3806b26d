/** A decode rank without a model in a process of its own, steered by its parent. Argument: backend. */
import { createHash } from 'node:crypto'
import { KVManager, promptDigest } from '@kvx/core'
import { allocate } from '@kvx/native'
import { cache, ids, pageBytes, poolPages, token } from './faults-cache.mjs'

const memory = allocate(poolPages * pageBytes)
const bytesOf = (page) => memory.view(page * pageBytes, pageBytes)
const manager = await KVManager.open({
  role: 'decode',
  backend: process.argv[2],
  from: import.meta.url,
  ...cache,
  memory: [memory],
  token,
  deadlines: {
    hello: 20_000,
    ping: 200,
    peerSilent: 6_000,
    drain: 500,
    recycle: 500,
    progress: 20_000,
    reserve: 20_000,
    // Longer than prefill takes to replace an engine whose writes are stuck in a frozen peer.
    pairing: 20_000,
  },
})

const commands = {
  /** A whole request; tells each step. */
  async receive({ room, from, tokens, pages }) {
    const receiver = manager.receive(BigInt(room), {
      from,
      tokens,
      digest: promptDigest(ids(tokens)),
    })
    const tell = (event, more) => process.send({ room, event, ...more })
    void receiver.settled.then(() => tell('settled'))
    try {
      await receiver.reserve({ pages: Int32Array.from(pages) })
      tell('reserved')
      await receiver.done
      tell('done')
    } catch ({ code, phase, message }) {
      tell('failed', { code, phase, message })
    }
  },
  fill({ pages, value }) {
    for (const page of pages) bytesOf(page).fill(value)
    process.send({ event: 'filled' })
  },
  /** Digests of pages, to be compared with those of the source. */
  digests({ pages }) {
    const digests = pages.map((page) => createHash('sha256').update(bytesOf(page)).digest('hex'))
    process.send({ event: 'digests', digests })
  },
}

process.on('message', (message) => void commands[message.do](message))
process.on('disconnect', () => process.exit(0))
process.send({ event: 'open' })
