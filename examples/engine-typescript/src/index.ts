/**
 * A transfer engine between processes of one Linux host, in TypeScript alone. Memory from `allocate()` is a memory file: the writer
 * opens the owner's and writes into it. A socket between the two says who may, and who is still there.
 */
import { once } from 'node:events'
import { closeSync, openSync, writeSync } from 'node:fs'
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net'
import * as kvx from '@kvx/contract'

type Descriptor = Readonly<{ id: number; pid: number; fd: number; bytes: number }>
/** What a writer asks for. The owner answers `yes`, or why not. Either of them ends the socket when it wants no more. */
type Hello = Readonly<{ to: string; from: string; targets: Descriptor[] }>
type Regions = (kvx.Memory | undefined)[]
type Live = Map<AbortController, { settled: Promise<void>; reads: Set<number> }>

const error = (code: kvx.ErrorCode, why: string, cause?: unknown) =>
  new kvx.KvxError(code, `The backend 'files': ${why}.`, { cause })
const encode = (value: object): Uint8Array => Buffer.from(JSON.stringify(value))
const decode = (bytes: Uint8Array) => Object(JSON.parse(Buffer.from(bytes).toString())) as unknown
const isInside = (end: number, region?: { bytes: number }) => end <= (region?.bytes ?? -1)
const ignore = () => undefined

function linkTo(socket: Socket, sources: Regions, targets: readonly Descriptor[]) {
  const files = targets.map(({ pid, fd }) => openSync(`/proc/${pid}/fd/${fd}`, 'r+'))
  const live: Live = new Map()
  let queue: Promise<unknown> = Promise.resolve()
  let ending: Promise<void> | undefined
  let ended: Error | undefined

  /** All pieces are found before the first is written: a plan that is refused moves nothing. */
  function piecesOf(plan: kvx.TransferPlan, reads: Set<number>) {
    const pieces: [file: number, to: number, memory: kvx.Memory, from: number, bytes: number][] = []
    try {
      kvx.eachCopy(plan, (source, from, target, to, bytes) => {
        if (!(isInside(from + bytes, sources[source]) && isInside(to + bytes, targets[target])))
          throw new RangeError(`it reaches outside of region ${source} or ${target}`)
        reads.add(source)
        pieces.push([files[target]!, to, sources[source]!, from, bytes])
      })
    } catch (cause) {
      throw error('ERR_KVX_PLAN_INVALID', `the plan cannot be: ${String(cause)}`, cause)
    }
    return pieces
  }

  async function carryOut(pieces: ReturnType<typeof piecesOf>, signal: AbortSignal) {
    let bytes = 0
    // Every 64 pieces whatever else this thread has to do has its turn.
    for (const [segment, [file, to, memory, from, length]] of pieces.entries()) {
      if (segment % 64 === 0) await new Promise((next) => setImmediate(next))
      signal.throwIfAborted()
      bytes += writeSync(file, memory.view!(from, length), 0, length, to)
    }
    return { bytes, segments: pieces.length }
  }

  function write(plan: kvx.TransferPlan, { deadlineMs = 30_000, after }: kvx.TransferOptions = {}) {
    const [stop, reads] = [new AbortController(), new Set<number>()]
    const late = error('ERR_KVX_TRANSFER_TIMEOUT', `it has not ended after ${deadlineMs} ms`)
    const timer = setTimeout(() => stop.abort(late), deadlineMs)
    const work = (async () => {
      if (ended) throw ended
      if (after) throw error('ERR_KVX_INVALID_OPTION', "it does not keep 'after'")
      const pieces = piecesOf(plan, reads)
      const turn = queue.then(() => carryOut(pieces, stop.signal))
      queue = turn.catch(ignore)
      return turn
    })()
    const over = once(stop.signal, 'abort').then(() => Promise.reject(stop.signal.reason as Error))
    const done = Promise.race([work, over])
    done.catch(ignore) // for those who do not wait for it
    const forget = () => void (clearTimeout(timer), live.delete(stop))
    const settled = work.then(forget, forget)
    live.set(stop, { settled, reads })
    const cancel = (reason?: unknown) =>
      stop.abort(error('ERR_KVX_ABORTED', `the transfer was cancelled: ${String(reason)}`))
    return { done, settled, cancel }
  }

  /** The socket is closed after the last byte was written: that is what the owner's fence waits for. */
  async function stop(why: Error): Promise<void> {
    ended = why
    for (const stop of live.keys()) stop.abort(why)
    await queue
    socket.destroy()
    for (const file of files) closeSync(file)
  }

  const end = (why: Error) => (ending ??= stop(why))
  socket.resume().on('end', () => void end(error('ERR_KVX_PEER_LOST', 'the owner has ended')))
  return { write, live, close: () => end(error('ERR_KVX_CLOSED', 'the link was closed')) }
}

class Files implements kvx.TransferEngine {
  readonly #regions: Regions = []
  readonly #writers = new Map<Socket, string>()
  readonly #links = new Set<ReturnType<typeof linkTo>>()
  readonly #barred = new Set<string>()
  readonly #end = new AbortController()
  #closing: Promise<void> | undefined
  readonly identity
  readonly address
  readonly capabilities = Object.freeze({
    ...{ memoryKinds: Object.freeze(['cpu'] as const), crossHost: false, fence: 'peer' as const },
    ...{ maxSegmentBytes: 0, minEfficientRun: 0 },
  })

  constructor(server: Server, generation: string) {
    this.identity = Object.freeze({ backend: 'files', version: '1', generation })
    this.address = encode({ port: (server.address() as AddressInfo).port })
    server.on('connection', (socket) => this.#accept(socket))
    this.#end.signal.addEventListener('abort', () => server.close())
  }

  async register(memory: kvx.Memory): Promise<kvx.Region> {
    this.#checkOpen()
    const { kind, address, bytes, fd = -1 } = memory
    const isRange = Number.isSafeInteger(bytes) && bytes > 0 && address > 0n
    if (!isRange || address + BigInt(bytes) > 1n << 64n || kind !== 'cpu' || !memory.view || fd < 0)
      throw error('ERR_KVX_MEMORY', 'only memory from allocate() of @kvx/native can be registered')
    const id = this.#regions.push(memory) - 1
    const descriptor = encode({ id, pid: process.pid, fd, bytes } satisfies Descriptor)
    const deregister = async () => {
      this.#regions[id] = undefined
      const live = [...this.#links].flatMap((link) => [...link.live.values()])
      const reading = live.filter(({ reads }) => reads.has(id))
      await Promise.all(reading.map(({ settled }) => settled))
    }
    return { id, bytes, descriptor, deregister }
  }

  async connect(
    { generation: to, address, regions }: kvx.PeerAddress,
    { timeoutMs = 10_000, signal }: { timeoutMs?: number; signal?: AbortSignal } = {},
  ): Promise<kvx.Link> {
    this.#checkOpen()
    const ends = [AbortSignal.timeout(timeoutMs), this.#end.signal, ...(signal ? [signal] : [])]
    let socket: Socket | undefined
    try {
      const { port } = decode(address) as { port: number }
      const targets = regions.map(decode) as Descriptor[]
      socket = connect({ host: '127.0.0.1', port, allowHalfOpen: true }).on('error', ignore)
      socket.write(encode({ to, from: this.identity.generation, targets } satisfies Hello))
      const answered = once(socket, 'data', { signal: AbortSignal.any(ends) })
      const closed = once(socket, 'close').then(() => 'nobody answers there')
      const answer = String(await Promise.race([answered, closed]))
      if (answer !== 'yes') throw new Error(answer)
      const link = linkTo(socket, this.#regions, targets)
      this.#links.add(link)
      socket.on('close', () => this.#links.delete(link))
      return link
    } catch (cause) {
      socket?.destroy()
      this.#checkOpen()
      if (signal?.aborted) throw error('ERR_KVX_ABORTED', 'the connect was aborted', cause)
      throw error('ERR_KVX_CONNECT_FAILED', `no link to generation ${to}: ${String(cause)}`, cause)
    }
  }

  /** A writer ends its side of the socket when it has stopped; the system does it for a process that is gone. */
  async fence(peerGeneration: string, { signal }: { signal?: AbortSignal } = {}): Promise<void> {
    this.#checkOpen()
    this.#barred.add(peerGeneration)
    const sockets = [...this.#writers].filter(([, from]) => from === peerGeneration)
    try {
      signal?.throwIfAborted()
      await Promise.all(sockets.map(([socket]) => once(socket.end(), 'close', { signal: signal! })))
    } catch (cause) {
      throw error('ERR_KVX_ABORTED', 'the wait for the fence was aborted', cause)
    }
  }

  async digest(job: kvx.DigestJob, { signal }: { signal?: AbortSignal } = {}): Promise<Uint8Array> {
    this.#checkOpen()
    if (signal?.aborted) throw error('ERR_KVX_ABORTED', 'the digest was aborted')
    return kvx.digests(job, this.#regions)
  }

  close(): Promise<void> {
    this.#end.abort()
    for (const socket of this.#writers.keys()) socket.destroy()
    return (this.#closing ??= Promise.all([...this.#links].map((link) => link.close())).then())
  }

  #checkOpen(): void {
    if (this.#closing) throw error('ERR_KVX_CLOSED', 'the engine is closed')
  }

  #accept(socket: Socket): void {
    this.#writers.set(socket, '') // whoever it is
    socket.on('error', ignore).on('close', () => this.#writers.delete(socket))
    socket.once('data', (bytes) => {
      try {
        const { to, from, targets } = decode(bytes) as Hello
        if (to !== this.identity.generation) throw new Error('another engine listens there now')
        if (this.#barred.has(from)) throw new Error(`generation ${from} is barred there`)
        if (targets.some(({ id }) => !this.#regions[id]))
          throw new Error('a region is not registered')
        this.#writers.set(socket, from)
        socket.resume().write('yes')
      } catch (why) {
        socket.end((why as Error).message)
      }
    })
  }
}

const objectionTo = (options: unknown = {}): string | undefined =>
  JSON.stringify(options) === '{}' ? undefined : `it has no options, got ${JSON.stringify(options)}`

const files: kvx.Backend = {
  [kvx.backendSymbol]: kvx.contractVersion,
  name: 'files',
  async probe(options) {
    const reason = objectionTo(options)
    if (reason === undefined) return { available: true, version: '1', tried: [] }
    return { available: false, tried: [{ what: 'the options', reason }], remedy: reason }
  },
  async open(options, { generation }) {
    const reason = objectionTo(options)
    if (reason !== undefined) throw error('ERR_KVX_INVALID_OPTION', reason)
    const server = createServer().listen(0, '127.0.0.1')
    await once(server, 'listening')
    return new Files(server, generation)
  },
}

export default files
