/** The same again and again in this process, and what it costs. */
import { randomBytes } from 'node:crypto'
import { silentLog, type PeerAddress } from '@kvx/contract'
import { allocate } from '@kvx/native'
import { whole } from '../kit/plans.ts'
import { backend, init } from './host.ts'
import { resources, type Resources } from './process.ts'

const bytes = 64 * 1024

const cycles = {
  /** An engine is opened and closed. */
  async engine(): Promise<() => Promise<void>> {
    const { open } = await opener()
    return async () => (await open()).close()
  },
  /** Memory is registered and deregistered. */
  async region() {
    const { open, memory } = await opener()
    const engine = await open()
    return async () => (await engine.register(memory)).deregister()
  },
  /** A link is made, written to, and closed. */
  async link(peer: PeerAddress) {
    const { open, memory } = await opener()
    const engine = await open()
    await engine.register(memory)
    return async () => {
      const link = await engine.connect(peer)
      await link.write(whole(bytes)).done
      await link.close()
    }
  },
  /** A write, of every second one nobody waits for the end. */
  async write(peer: PeerAddress) {
    const { open, memory } = await opener()
    const engine = await open()
    await engine.register(memory)
    const link = await engine.connect(peer)
    return async () => {
      const refused = link.write(whole(bytes + 1))
      await Promise.all([link.write(whole(bytes)).settled, refused.settled])
    }
  },
}

export type CycleName = keyof typeof cycles

async function opener() {
  const found = await backend()
  const memory = allocate(bytes)
  const open = () =>
    found.open(init.options, { generation: randomBytes(16).toString('hex'), log: silentLog })
  return { open, memory }
}

export const leakCommands = {
  /** What the process has after a third of `count` cycles, after two thirds, and after all. Ends early after `longestMs`. */
  async cycle(
    name: CycleName,
    { count, longestMs }: { readonly count: number; readonly longestMs: number },
    peer: PeerAddress,
  ): Promise<{ done: number; samples: Resources[] }> {
    const turn = await cycles[name](peer)
    const began = performance.now()
    const samples: Resources[] = []
    let done = 0
    const third = async (): Promise<void> => {
      const until = began + ((samples.length + 1) * longestMs) / 3
      for (let i = 0; i < count / 3; i++) {
        await turn()
        done++
        if (performance.now() > until) break
      }
      samples.push(resources())
    }
    for (let i = 0; i < 3; i++) await third()
    return { done, samples }
  },
}
