import { fork, type ChildProcess } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import {
  closeSync,
  mkdtempSync,
  openSync,
  readSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { silentLog, type Log, type PeerAddress, type TransferEngine } from '@kvx/contract'
import mori, { wheelSpec, type MoriOptions } from '@kvx/mori'
import { installWheel } from '@kvx/vendor'
import { afterAll, beforeAll, onTestFinished } from 'vitest'
import { buildFakeVerbs } from '../fake-verbs/build.mjs'

const fields = [
  'lose',
  'hold',
  'held',
  'refuse',
  'regions',
  'queuePairs',
  'landed',
  'refused',
  'noQueuePairs',
  'status',
  'late',
  'full',
  'removed',
] as const
type Field = (typeof fields)[number]

/** The numbers by which a process with the fake libibverbs is steered and watched (see fake_verbs.c). */
export class Control {
  readonly path: string
  readonly #fd: number

  constructor(folder: string) {
    this.path = join(folder, randomBytes(8).toString('hex'))
    writeFileSync(this.path, Buffer.alloc(4 * fields.length))
    this.#fd = openSync(this.path, 'r+')
  }

  set(field: Field, value: number): void {
    const bytes = Buffer.alloc(4)
    bytes.writeUInt32LE(value)
    writeSync(this.#fd, bytes, 0, 4, 4 * fields.indexOf(field))
  }

  get(field: Field): number {
    const bytes = Buffer.alloc(4)
    readSync(this.#fd, bytes, 0, 4, 4 * fields.indexOf(field))
    return bytes.readUInt32LE()
  }

  close(): void {
    closeSync(this.#fd)
  }
}

let folder = ''
/** Of this process. It is mapped when MORI is first loaded, and stays. */
export let control: Control

/** The real MORI, installed when it is not yet there, on the fake libibverbs. */
export function useMori(): void {
  beforeAll(async () => {
    await installWheel(wheelSpec())
    folder = mkdtempSync(join(tmpdir(), 'kvx-mori-'))
    control = new Control(folder)
    process.env.KVX_MORI_FAKE_VERBS = buildFakeVerbs()
    process.env.KVX_MORI_VERBS = 'fake'
    process.env.KVX_FAKE_VERBS_CONTROL = control.path
  }, 120_000)
  afterAll(() => {
    control.close()
    rmSync(folder, { recursive: true })
  })
}

export function open(options: MoriOptions = {}, log: Log = silentLog): Promise<TransferEngine> {
  return mori.open(options, { generation: randomBytes(16).toString('hex'), log })
}

interface Answer {
  answer?: unknown
  code?: string
  message?: string
}

interface Opened {
  generation: string
  address: string
  regions: string[]
}

export interface Peer {
  readonly process: ChildProcess
  readonly control: Control
  /** What `connect` takes; of the latest `open`. */
  readonly address: PeerAddress
  ask(action: string, fields?: object): Promise<unknown>
  /** Closes the engine and opens another, under a new generation. */
  recycle(): Promise<void>
  kill(): Promise<void>
}

/** Another process, with an engine and memory in it. Ends with the test. */
export async function forkPeer(
  regions: readonly number[],
  options: MoriOptions = {},
): Promise<Peer> {
  const control = new Control(folder)
  const path = fileURLToPath(new URL('./peer.mjs', import.meta.url))
  const process_ = fork(path, [JSON.stringify({ options, regions })], {
    env: { ...process.env, KVX_FAKE_VERBS_CONTROL: control.path },
    execArgv: [],
  })
  const kill = async (): Promise<void> => {
    if (process_.exitCode !== null || process_.signalCode !== null) return
    const ended = once(process_, 'exit')
    process_.kill('SIGKILL')
    await ended
  }
  onTestFinished(async () => {
    await kill()
    control.close()
  })
  const answers: Answer[] = []
  const waiting: { resolve(answer: unknown): void; reject(error: Error): void }[] = []
  const give = ({ answer, code, message }: Answer): void => {
    const waiter = waiting.shift()
    if (message === undefined) waiter?.resolve(answer)
    else waiter?.reject(new Error(`${code ?? ''}: ${message}`))
  }
  process_.on('message', (message: Answer) => {
    if (waiting.length > 0) give(message)
    else answers.push(message)
  })
  process_.on('exit', (code, signal) => {
    for (const waiter of waiting.splice(0)) {
      waiter.reject(new Error(`The peer ended (code ${String(code)}, signal ${String(signal)}).`))
    }
  })
  const answer = (): Promise<unknown> =>
    new Promise((resolve, reject) => {
      waiting.push({ resolve, reject })
      const message = answers.shift()
      if (message !== undefined) give(message)
    })
  await answer()
  const ask = (action: string, fields: object = {}): Promise<unknown> => {
    process_.send({ do: action, ...fields })
    return answer()
  }
  const addressOf = ({ generation, address, regions }: Opened): PeerAddress => ({
    generation,
    address: Buffer.from(address, 'base64'),
    regions: regions.map((region) => Buffer.from(region, 'base64')),
  })
  let address = addressOf((await ask('open')) as Opened)
  return {
    process: process_,
    control,
    get address() {
      return address
    },
    ask,
    kill,
    async recycle() {
      await ask('close')
      address = addressOf((await ask('open')) as Opened)
    },
  }
}

/** A plan that copies `pages` pages of `pageBytes` to the same places, from page `first` on. */
export function pages(pageBytes: number, count: number, first = 0) {
  return {
    lanes: Float64Array.of(0, 0, 0, 0, pageBytes, pageBytes, pageBytes, 1, 0, 0),
    groups: Int32Array.of(first, first, count),
    blocks: Int32Array.of(0, 1, 0, 1),
  }
}

/** Looks again and again; the test's own time limit is the deadline. */
export async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setImmediate(resolve))
}
