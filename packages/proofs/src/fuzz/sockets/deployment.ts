/** What everybody who holds the token has, and a request between managers that do as they should. */
import { silentLog, type Memory } from '@kvx/contract'
import {
  BootstrapServer,
  KVManager,
  promptDigest,
  type DecodeManager,
  type PrefillManager,
} from '@kvx/core'
import { cache, memoryBytes } from '../worlds/fixtures.ts'
import { backend } from './engine.ts'

export const token = 'a token for fuzzing'

export const openBootstrap = () =>
  BootstrapServer.open({ host: '127.0.0.1', port: 0, token, log: silentLog })

const memory: Memory = { address: 4096n, bytes: memoryBytes, kind: 'cpu', device: 0 }
const common = { backend, token, ...cache, log: silentLog, from: import.meta.url, memory: [memory] }

export const prompt = { tokens: 4, digest: promptDigest([1, 2, 3, 4]) }

export class Deployment {
  readonly bootstrap: BootstrapServer
  readonly prefill: PrefillManager
  readonly decode: DecodeManager
  #room = 2n ** 40n

  private constructor(bootstrap: BootstrapServer, prefill: PrefillManager, decode: DecodeManager) {
    this.bootstrap = bootstrap
    this.prefill = prefill
    this.decode = decode
  }

  static async open(): Promise<Deployment> {
    const bootstrap = await openBootstrap()
    const prefill = await KVManager.open({
      ...common,
      role: 'prefill',
      bootstrap: bootstrap.address,
    })
    const decode = await KVManager.open({ ...common, role: 'decode' })
    return new Deployment(bootstrap, prefill, decode)
  }

  /** @throws KvxError when it does not succeed */
  async request(): Promise<void> {
    const room = this.#room++
    const receiver = this.decode.receive(room, { ...prompt, from: this.bootstrap.address })
    const sender = this.prefill.send(room, prompt)
    await receiver.reserve({ pages: Int32Array.of(1), state: { mamba: [] } })
    await sender.reserved()
    await sender.write({ tokens: [0, prompt.tokens], pages: Int32Array.of(1) })
    await Promise.all([sender.finish({ state: { mamba: [] } }), receiver.done])
  }

  async close(): Promise<void> {
    await this.decode.close()
    await this.prefill.close()
    await this.bootstrap.close()
  }
}
