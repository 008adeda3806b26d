import { BootstrapServer } from '../../src/bootstrap/index.ts'
import { silentLog } from '@kvx/contract'
import {
  KVManager,
  type KVManagerOptions,
  type KVReceiver,
  type KVSender,
  type SendRequest,
} from '../../src/manager/index.ts'
import type { Layout, Tensor } from '../../src/layout/index.ts'
import { Loopback, plainMemory } from './loopback.ts'

export const token = 'a token for tests'
export const pageTokens = 4
const headBytes = 8
const heads = 2
const layers = 3
export const pageBytes = pageTokens * heads * headBytes
/** Bytes of one page of the prompt over all tensors. */
export const wholePageBytes = pageBytes * layers * 2

export function smallLayout(pages: number, model = 'test-model'): Layout {
  const tensors: Tensor[] = []
  for (let layer = 0; layer < layers; layer++) {
    for (const part of ['k', 'v'] as const) {
      tensors.push({
        component: 'kv',
        layer,
        part,
        dtype: 'f16',
        region: 0,
        base: tensors.length * pages * pageBytes,
        pageBytes,
        heads: [0, heads],
        headBytes,
        order: part === 'k' ? 'token-major' : 'head-major',
      })
    }
  }
  return { model, pageTokens, layers, heads, pages: { kv: pages }, tensors }
}

export function memoryFor(layout: Layout) {
  return plainMemory((layout.pages.kv ?? 0) * pageBytes * layout.tensors.length)
}

export interface PairOptions {
  pages?: number
  engine?: Loopback
  prefill?: Partial<KVManagerOptions>
  decode?: Partial<KVManagerOptions>
}

/** A prefill and a decode manager of one process, with a bootstrap between them. */
export async function openPair(options: PairOptions = {}) {
  const engine = options.engine ?? new Loopback()
  const bootstrap = await BootstrapServer.open({
    host: '127.0.0.1',
    port: 0,
    token,
    log: silentLog,
  })
  const prefillLayout = smallLayout(options.pages ?? 32)
  const decodeLayout = smallLayout((options.pages ?? 32) + 7)
  const prefillMemory = memoryFor(prefillLayout)
  const decodeMemory = memoryFor(decodeLayout)
  const base = { backend: engine.backend, token, from: import.meta.url }
  const prefill = await KVManager.open({
    ...base,
    role: 'prefill',
    layout: prefillLayout,
    memory: [prefillMemory],
    bootstrap: bootstrap.address,
    ...options.prefill,
  })
  const decode = await KVManager.open({
    ...base,
    role: 'decode',
    layout: decodeLayout,
    memory: [decodeMemory],
    ...options.decode,
  })
  return {
    engine,
    bootstrap,
    prefill,
    decode,
    prefillMemory,
    decodeMemory,
    prefillLayout,
    decodeLayout,
    from: bootstrap.address,
    async close() {
      await decode.close()
      await prefill.close()
      await bootstrap.close()
    },
  }
}

/** Both legs of a request whose pages decode has reserved. */
export async function openLegs(
  {
    prefill,
    decode,
    from,
  }: Pick<Awaited<ReturnType<typeof openPair>>, 'prefill' | 'decode' | 'from'>,
  room: bigint,
  request: Pick<SendRequest, 'tokens' | 'digest'>,
  pages: readonly number[],
): Promise<{ receiver: KVReceiver; sender: KVSender }> {
  const receiver = decode.receive(room, { ...request, from })
  const sender = prefill.send(room, request)
  await receiver.reserve({ pages: Int32Array.from(pages) })
  await sender.reserved()
  return { receiver, sender }
}

/** Fills a memory with bytes that tell where they came from. */
export function fill(
  memory: { bytes: number; view(offset: number, length: number): Uint8Array },
  seed: number,
): void {
  const bytes = memory.view(0, memory.bytes)
  for (let i = 0; i < bytes.length; i++) bytes[i] = (i * 31 + seed + (i >> 8)) & 0xff
}

/** The bytes of one page over all tensors. */
export function pageOf(
  memory: { view(offset: number, length: number): Uint8Array },
  layout: Layout,
  page: number,
): Buffer {
  return Buffer.concat(
    layout.tensors.map((t) => memory.view(t.base + page * t.pageBytes, t.pageBytes)),
  )
}
