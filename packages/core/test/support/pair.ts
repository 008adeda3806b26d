import { BootstrapServer } from '../../src/bootstrap/index.ts'
import { silentLog } from '@kvx/contract'
import {
  KVManager,
  type Chunk,
  type DecodeOptions,
  type PrefillOptions,
  type KVReceiver,
  type KVSender,
  type PageList,
  type SendRequest,
} from '../../src/manager/index.ts'
import type { Place } from '../../src/place/index.ts'
import type { CacheShape } from '../../src/shape/index.ts'
import { Loopback, plainMemory } from './loopback.ts'

export const token = 'a token for tests'
export const pageTokens = 4
const headBytes = 8
const heads = 2
const layers = 3
export const pageBytes = pageTokens * heads * headBytes
/** Bytes of one page of the prompt over all tensors. */
export const wholePageBytes = pageBytes * layers * 2

/** What a manager needs to know of a cache. */
export interface Cache {
  readonly shape: CacheShape
  readonly place: Place
}

/** Three layers of K, and of V stored by elements; one component, one region. */
export function smallCache(pages: number, model = 'test-model'): Cache {
  const tensors = Array.from({ length: 2 * layers }, (_, i) => ({
    ...{ layer: Math.floor(i / 2), part: i % 2 === 0 ? 'k' : 'v', dtype: 'f16' },
    ...{ units: heads, unitBytes: headBytes, elementBytes: 2 },
  }))
  return {
    shape: { model, layers, components: [{ name: 'kv', addressed: 'tokens', tensors }] },
    place: {
      components: { kv: { pageTokens, pages } },
      tensors: tensors.map(({ layer, part }, i) => ({
        ...{ component: 'kv', layer, part, region: 0, base: i * pages * pageBytes, pageBytes },
        order: part === 'k' ? 'NHD' : 'HDN',
      })),
    },
  }
}

export function memoryFor({ place }: Cache) {
  const { pages } = place.components.kv ?? { pages: 0 }
  return plainMemory(pages * pageBytes * place.tensors.length)
}

/** The chunk of these pages, from page `start` of a prompt of so many tokens on. */
export function chunkOf(tokens: number, start: number, pages: PageList): Chunk {
  return {
    tokens: [start * pageTokens, Math.min((start + pages.length) * pageTokens, tokens)],
    pages,
  }
}

export interface PairOptions {
  pages?: number
  engine?: Loopback
  prefill?: Partial<PrefillOptions>
  decode?: Partial<DecodeOptions>
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
  const prefillCache = smallCache(options.pages ?? 32)
  const decodeCache = smallCache((options.pages ?? 32) + 7)
  const prefillMemory = memoryFor(prefillCache)
  const decodeMemory = memoryFor(decodeCache)
  const base = { backend: engine.backend, token, from: import.meta.url }
  const prefill = await KVManager.open({
    ...base,
    role: 'prefill',
    ...prefillCache,
    memory: [prefillMemory],
    bootstrap: bootstrap.address,
    ...options.prefill,
  })
  const decode = await KVManager.open({
    ...base,
    role: 'decode',
    ...decodeCache,
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
    prefillCache,
    decodeCache,
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
  { place }: Cache,
  page: number,
): Buffer {
  return Buffer.concat(
    place.tensors.map((t) => memory.view(t.base + page * t.pageBytes, t.pageBytes)),
  )
}
