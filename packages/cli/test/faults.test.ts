/** Does the prefill side stay whole when a decode process dies or freezes in the middle of writes, over every engine? */
import { fork, type ChildProcess } from 'node:child_process'
import { createHash } from 'node:crypto'
import { fileURLToPath } from 'node:url'
import {
  BootstrapServer,
  KVManager,
  promptDigest,
  type KVSender,
  type SendRequest,
} from '@kvx/core'
import { silentLog } from '@kvx/contract'
import { allocate } from '@kvx/native'
import { afterEach, beforeAll, expect, test } from 'vitest'
import { buildFakeVerbs } from '../../mori/test/fake-verbs/build.mjs'
import { patience } from './support/cluster.ts'
import { kvx } from './support/command.ts'
import { cache, ids, pageBytes, pageTokens, poolPages, token } from './support/faults-cache.mjs'

const engines = ['shm', 'mooncake', 'mori']
const peerScript = fileURLToPath(new URL('support/decode-peer.mjs', import.meta.url))

beforeAll(async () => {
  process.env.KVX_MORI_VERBS = 'fake'
  process.env.KVX_MORI_FAKE_VERBS = buildFakeVerbs()
  for (const name of ['mooncake', 'mori']) await kvx('backend', 'install', name)
}, patience)

interface News {
  event: string
  room?: string
  code?: string
  phase?: string
  digests?: string[]
}

/** A decode rank in another process. */
class Peer {
  readonly child: ChildProcess
  readonly #news: News[] = []
  readonly #ended: Promise<never>
  #wake: () => void = () => undefined

  constructor(backend: string) {
    this.child = fork(peerScript, [backend], { stdio: ['ignore', 'ignore', 'inherit', 'ipc'] })
    this.child.on('message', (news) => {
      this.#news.push(news as News)
      this.#wake()
    })
    this.#ended = new Promise((_resolve, reject) => {
      this.child.once('exit', (code, signal) => {
        reject(new Error(`the decode process ended: ${String(code ?? signal)}`))
      })
    })
    this.#ended.catch(() => undefined)
  }

  tell(message: Record<string, unknown>): void {
    this.child.send(message)
  }

  /** The first news of this kind, taken out; rejects when the process ends before. */
  async hear(event: string, room?: bigint): Promise<News> {
    for (;;) {
      const at = this.#news.findIndex(
        (news) => news.event === event && (room === undefined || news.room === String(room)),
      )
      const [found] = at < 0 ? [] : this.#news.splice(at, 1)
      if (found) return found
      await Promise.race([new Promise<void>((resolve) => (this.#wake = resolve)), this.#ended])
    }
  }

  receive(room: bigint, from: string, pages: readonly number[]): void {
    this.tell({ do: 'receive', room: String(room), from, tokens: pages.length * pageTokens, pages })
  }

  async digests(pages: readonly number[]): Promise<string[]> {
    this.tell({ do: 'digests', pages })
    return (await this.hear('digests')).digests ?? []
  }
}

const closing: (() => Promise<void> | void)[] = []
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close()
}, patience)

async function prefillOver(backend: string) {
  const bootstrap = await BootstrapServer.open({
    host: '127.0.0.1',
    port: 0,
    token,
    log: silentLog,
  })
  closing.push(() => bootstrap.close())
  const memory = allocate(poolPages * pageBytes)
  const all = memory.view(0, memory.bytes)
  for (let page = 0; page < poolPages; page++)
    all.fill(page + 1, page * pageBytes, (page + 1) * pageBytes)
  const manager = await KVManager.open({
    role: 'prefill',
    backend,
    from: import.meta.url,
    ...cache,
    memory: [memory],
    token,
    bootstrap: bootstrap.address,
    deadlines: {
      peerSilent: 3_000,
      drain: 500,
      recycle: 500,
      hello: 20_000,
      pairing: 20_000,
    },
  })
  closing.push(() => manager.close())
  const send = (room: bigint, pages: number, deadlines: SendRequest['deadlines'] = {}): KVSender =>
    manager.send(room, {
      tokens: pages * pageTokens,
      digest: promptDigest(ids(pages * pageTokens)),
      deadlines,
    })
  const digest = (page: number) =>
    createHash('sha256')
      .update(memory.view(page * pageBytes, pageBytes))
      .digest('hex')
  return { from: bootstrap.address, send, digest }
}

function decodeOver(backend: string): Peer {
  const peer = new Peer(backend)
  closing.push(() => {
    peer.child.kill('SIGKILL')
  })
  return peer
}

/** For a leg that is to fail. */
const soon = { transfer: 1_000, linger: 3_000 }

const range = (start: number, end: number) =>
  Array.from({ length: end - start }, (_, i) => start + i)

type Prefill = Awaited<ReturnType<typeof prefillOver>>

/** One whole request, whose bytes are compared. */
async function exchange(
  prefill: Prefill,
  peer: Peer,
  room: bigint,
  source: number[],
  destination: number[],
) {
  peer.receive(room, prefill.from, destination)
  const sender = prefill.send(room, source.length)
  // Whoever fails first says why.
  await Promise.race([sender.reserved(), peer.hear('reserved', room).then(() => sender.reserved())])
  await sender.write({ tokens: [0, source.length * pageTokens], pages: source })
  await sender.finish()
  await peer.hear('done', room)
  expect(await peer.digests(destination)).toEqual(source.map(prefill.digest))
}

/** Writes page by page until the request fails, and answers why. */
async function writeUntilFailure(
  sender: KVSender,
  pages: number,
  afterFirst: () => void,
): Promise<unknown> {
  try {
    for (let page = 0; page < pages; page++) {
      await sender.write({ tokens: [page * pageTokens, (page + 1) * pageTokens], pages: [page] })
      if (page === 0) afterFirst()
    }
    await sender.finish()
    return undefined
  } catch (error) {
    return error
  }
}

test.each(engines)(
  'over %s, killing decode in the middle of writes fails the request, and the next decode is served',
  async (name) => {
    const prefill = await prefillOver(name)
    const first = decodeOver(name)
    await first.hear('open')
    first.receive(1n, prefill.from, range(0, 64))
    const sender = prefill.send(1n, 64, soon)
    await sender.reserved()
    const error = await writeUntilFailure(sender, 64, () => first.child.kill('SIGKILL'))
    expect(error).toMatchObject({
      name: 'KvxError',
      phase: expect.stringMatching(/transfer|complete/) as string,
    })
    await sender.settled
    const second = decodeOver(name)
    await second.hear('open')
    await exchange(prefill, second, 2n, range(10, 26), range(5, 21))
  },
  patience,
)

test.each(engines)(
  'over %s, a frozen decode fails its request in time, and no byte lands in pages that it hands out later',
  async (name) => {
    const prefill = await prefillOver(name)
    const frozen = decodeOver(name)
    await frozen.hear('open')
    const pages = range(0, 64)
    frozen.receive(1n, prefill.from, pages)
    const sender = prefill.send(1n, 64, soon)
    await sender.reserved()
    await frozen.hear('reserved', 1n)
    const error = await writeUntilFailure(sender, 64, () => frozen.child.kill('SIGSTOP'))
    expect(error).toMatchObject({
      name: 'KvxError',
      phase: expect.stringMatching(/transfer|complete/) as string,
    })

    const other = decodeOver(name)
    await other.hear('open')
    await exchange(prefill, other, 2n, range(0, 8), range(40, 48))

    frozen.child.kill('SIGCONT')
    // When it got everything before it froze it has succeeded: that is final for it.
    await frozen.hear('settled', 1n)
    // The pages are handed out again: nothing of the first request may change them from now on.
    frozen.tell({ do: 'fill', pages, value: 0xee })
    await frozen.hear('filled')
    await exchange(prefill, frozen, 3n, range(0, 8), range(64, 72))
    await sender.settled
    const untouched = createHash('sha256').update(Buffer.alloc(pageBytes, 0xee)).digest('hex')
    expect(new Set(await frozen.digests(pages))).toEqual(new Set([untouched]))
  },
  patience,
)
