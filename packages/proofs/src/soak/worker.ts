/** A worker process of a soak: a manager without a model, which fills what it sends and looks at every byte that arrives. */
import { setTimeout as sleep } from 'node:timers/promises'
import { toKvxError } from '@kvx/contract'
import { describeMismatch, fill, placeOf, shapeOf, verify, type RequestCache } from '@kvx/bench'
import { KVManager, makeRank, PagePool, promptDigest, settingsFor, type Lease } from '@kvx/core'
import { allocate } from '@kvx/native'
import { Random } from '@kvx/simulator'
import {
  chunkTokens,
  layers,
  model,
  pages,
  pageTokens,
  quickestChunkMs,
  slowestChunkMs,
  type SoakDeadlines,
} from './settings.ts'

export interface WorkerOptions {
  readonly role: 'prefill' | 'decode'
  readonly backend: string
  readonly instance: string
  /** prefill: where it registers. */
  readonly bootstrap: string
  readonly token: string
  readonly deadlines: SoakDeadlines
}

export interface Job {
  readonly room: string
  readonly seed: number
  readonly tokens: number
  /** The bootstrap service of its prefill worker. */
  readonly from: string
}

/** How a leg has ended. */
export interface End {
  /** `ok`, `wrong`, or the code of its error. */
  readonly code: string
  readonly message?: string
  /** decode: that arrived and were looked at. */
  readonly bytes?: number
}

export interface Gauge {
  readonly leased: number
  readonly quarantined: number
  /** After a collection. */
  readonly heapBytes: number
}

/** What a parent says. */
export type Word =
  | { readonly do: 'open'; readonly options: WorkerOptions }
  | { readonly do: 'serve'; readonly job: Job }
  | { readonly do: 'abort'; readonly room: string }
  | { readonly do: 'gauge' }
  | { readonly do: 'close' }

/** What a worker says. */
export type Answer =
  | { readonly is: 'open' | 'closed' }
  | { readonly is: 'served'; readonly room: string; readonly end: End }
  | { readonly is: 'gauge'; readonly gauge: Gauge }
  | { readonly is: 'failed'; readonly message: string }

const shape = shapeOf(model, { layers })
const rank = makeRank(shape.layers, { tp: 0, pp: 0, cp: 0, dp: 0 })
const { place, regionBytes } = placeOf(shape, rank, { pageTokens, pages })
const memory = regionBytes.map((bytes) => allocate(bytes))
const views = memory.map((one) => one.view(0, one.bytes))
// The system gives the bytes now, not as pages are used for the first time.
for (const view of views) view.fill(0xa5)
const pool = new PagePool(pages)
const aborts = new Map<string, () => void>()
let manager: KVManager | undefined

async function open(options: WorkerOptions): Promise<void> {
  const { role, backend, instance, bootstrap, token } = options
  const common = {
    ...{ backend, from: import.meta.url, shape, place, rank, memory, token, instance },
    deadlines: settingsFor(role, options.deadlines, 'deadline'),
  }
  manager =
    role === 'prefill'
      ? await KVManager.open({ ...common, role, bootstrap })
      : await KVManager.open({ ...common, role })
}

const digestOf = ({ seed, tokens }: Job) => promptDigest(Int32Array.of(seed & 0x7fffffff, tokens))
const cacheOf = (lease: Lease): RequestCache => ({
  ...{ shape, rank, place, memory: views, pages: { kv: lease.pages } },
})

async function send(job: Job): Promise<End> {
  if (manager?.role !== 'prefill') throw new TypeError('a decode worker sends nothing')
  const { tokens } = job
  const sender = manager.send(BigInt(job.room), { tokens, digest: digestOf(job) })
  aborts.set(job.room, () => {
    sender.abort()
  })
  let lease: Lease | undefined
  try {
    await sender.reserved()
    lease = await pool.allocate(Math.ceil(tokens / pageTokens))
    const cache = cacheOf(lease)
    const random = new Random(job.seed)
    for (let from = 0; from < tokens; from += chunkTokens) {
      const end = Math.min(tokens, from + chunkTokens)
      await sleep(random.between(quickestChunkMs, slowestChunkMs))
      fill(cache, job, { tokens: [from, end] })
      const chunk = lease.pages.subarray(from / pageTokens, Math.ceil(end / pageTokens))
      await sender.write({ tokens: [from, end], pages: chunk })
    }
    await sender.finish({ aux: { firstToken: job.seed % 100_000 } })
    return { code: 'ok' }
  } finally {
    sender.abort() // does nothing after the end
    lease?.quarantine(sender.settled)
  }
}

async function receive(job: Job): Promise<End> {
  if (manager?.role !== 'decode') throw new TypeError('a prefill worker receives nothing')
  const { tokens, from } = job
  const receiver = manager.receive(BigInt(job.room), { from, tokens, digest: digestOf(job) })
  receiver.done.catch(() => undefined)
  aborts.set(job.room, () => {
    receiver.abort()
  })
  let lease: Lease | undefined
  try {
    lease = await pool.allocate(Math.ceil(tokens / pageTokens))
    await receiver.reserve({ pages: lease.pages })
    const { aux } = await receiver.done
    const { bytes, mismatch } = verify(cacheOf(lease), job)
    if (mismatch) return { code: 'wrong', message: describeMismatch(mismatch) }
    if (aux.firstToken !== job.seed % 100_000) {
      return { code: 'wrong', message: `the first token is ${String(aux.firstToken)}` }
    }
    return { code: 'ok', bytes }
  } finally {
    receiver.abort()
    lease?.quarantine(receiver.settled)
  }
}

/** Never rejects. */
async function serve(job: Job): Promise<End> {
  try {
    return await (manager?.role === 'prefill' ? send(job) : receive(job))
  } catch (cause) {
    const { code, message } = toKvxError(cause)
    return { code, message }
  } finally {
    aborts.delete(job.room)
  }
}

function say(answer: Answer): void {
  // The parent may be gone: 'disconnect' ends this process.
  process.send?.(answer, undefined, undefined, () => undefined)
}

async function obey(word: Word): Promise<void> {
  switch (word.do) {
    case 'open':
      await open(word.options)
      say({ is: 'open' })
      return
    case 'serve':
      say({ is: 'served', room: word.job.room, end: await serve(word.job) })
      return
    case 'abort':
      aborts.get(word.room)?.()
      return
    case 'gauge': {
      globalThis.gc?.()
      const { leased, quarantined } = pool.counts()
      const heapBytes = process.memoryUsage().heapUsed
      say({ is: 'gauge', gauge: { leased, quarantined, heapBytes } })
      return
    }
    case 'close':
      await manager?.close()
      say({ is: 'closed' })
  }
}

// Ctrl-C at a terminal is for the whole group: the parent decides.
process.on('SIGINT', () => undefined)
process.once('disconnect', () => {
  process.exit()
})
process.on('message', (word: Word) => {
  obey(word).catch((cause: unknown) => {
    say({ is: 'failed', message: String(cause) })
  })
})
