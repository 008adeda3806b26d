/** An engine in a process, with memory that is registered there. */
import { randomBytes } from 'node:crypto'
import type { Memory, PeerAddress, TransferPlan, TransferReport } from '@kvx/contract'
import type { WriteOptions } from '../child/transfers.ts'
import { Refusal, type Party } from './party.ts'
import { difference, hashOf } from './pattern.ts'
import { must, within, type PromiseName } from './promises.ts'

export const newGeneration = (): string => randomBytes(16).toString('hex')

/** What ends at all ends in that time, also where the machine is busy. */
export const patience = 20_000

export interface RemoteMemory {
  readonly memory: number
  readonly bytes: number
  readonly address: bigint
  /** The memory file, as another process opens it. */
  readonly file: string | undefined
}

export interface RemoteRegion {
  readonly region: number
  readonly id: number
  readonly bytes: number
  readonly descriptor: Uint8Array
}

export class Host {
  readonly party: Party
  readonly engine: number
  readonly generation: string
  readonly address: Uint8Array
  readonly memories: RemoteMemory[] = []
  readonly regions: RemoteRegion[] = []

  constructor(party: Party, opened: { engine: number; generation: string; address: Uint8Array }) {
    this.party = party
    this.engine = opened.engine
    this.generation = opened.generation
    this.address = opened.address
  }

  async allocate(bytes: number): Promise<RemoteMemory> {
    const { memory, address, fd } = await this.party.ask('allocate', bytes)
    const file = fd === undefined ? undefined : `/proc/${this.party.pid}/fd/${fd}`
    return { memory, bytes, address, file }
  }

  /** Memory of `bytes`, registered. */
  async provide(bytes: number): Promise<RemoteMemory> {
    const memory = await this.allocate(bytes)
    await this.register(memory)
    this.memories.push(memory)
    return memory
  }

  async register({ memory }: RemoteMemory, change?: Partial<Memory>): Promise<RemoteRegion> {
    const region = await this.party.ask('register', this.engine, memory, change)
    this.regions.push(region)
    return region
  }

  get peer(): PeerAddress {
    return {
      generation: this.generation,
      address: this.address,
      regions: this.regions.map(({ descriptor }) => descriptor),
    }
  }

  async connect(
    peer: PeerAddress,
    options: { timeoutMs?: number; abortAfterMs?: number } = { timeoutMs: 10_000 },
  ): Promise<Link> {
    return new Link(this.party, await this.party.ask('connect', this.engine, peer, options))
  }

  fill(seed: number, at = 0): Promise<void> {
    return this.party.ask('fill', this.memories[at]!.memory, seed)
  }

  mark(value: number, at = 0): Promise<void> {
    return this.party.ask('mark', this.memories[at]!.memory, value)
  }

  read(offset: number, length: number, at = 0): Promise<Uint8Array> {
    return this.party.ask('read', this.memories[at]!.memory, offset, length)
  }

  /** @throws BrokenPromise when the memory holds anything else */
  async mustHold(expected: Uint8Array, promise: PromiseName, when: string, at = 0): Promise<void> {
    if ((await this.party.ask('hash', this.memories[at]!.memory)) === hashOf(expected)) return
    const wrong = difference(await this.read(0, expected.length, at), expected)
    must(wrong === undefined, promise, `${when}: ${String(wrong)}.`)
  }

  /** Whether all bytes are still `value` after `ms`. */
  async mustStay(value: number, ms: number, promise: PromiseName, when: string): Promise<void> {
    await new Promise((resolve) => setTimeout(resolve, ms))
    for (const [at, { bytes }] of this.memories.entries()) {
      await this.mustHold(Buffer.alloc(bytes, value), promise, when, at)
    }
  }

  /** Marks the first memory with `value`: nothing of what came before may land there now. */
  async noLateByte(value: number, ms: number, promise: PromiseName, when: string): Promise<void> {
    await this.mark(value)
    await this.mustStay(value, ms, promise, when)
  }

  close(): Promise<void> {
    return within(
      patience,
      this.party.ask('closeEngine', this.engine),
      'close',
      'close() of an engine',
    )
  }
}

export class Link {
  readonly party: Party
  readonly number: number

  constructor(party: Party, number: number) {
    this.party = party
    this.number = number
  }

  async write(plan: TransferPlan, options?: WriteOptions): Promise<RemoteTransfer> {
    return new RemoteTransfer(this.party, await this.party.ask('write', this.number, plan, options))
  }

  /** A write that must succeed. */
  async move(plan: TransferPlan): Promise<TransferReport> {
    const transfer = await this.write(plan)
    const report = await transfer.mustSucceed()
    await transfer.mustSettle()
    return report
  }

  close(): Promise<void> {
    return within(patience, this.party.ask('closeLink', this.number), 'linkClose', 'link.close()')
  }
}

export class RemoteTransfer {
  readonly party: Party
  readonly number: number

  constructor(party: Party, number: number) {
    this.party = party
    this.number = number
  }

  /** Its report, or what it was refused with. */
  async outcome(ms = patience): Promise<TransferReport | Refusal> {
    const done = this.party.ask('done', this.number)
    try {
      return await within(ms, done, 'done', 'done of a transfer')
    } catch (error) {
      if (!(error instanceof Refusal)) throw error
      must(error.isKvxError, 'done', `done rejected with no KvxError: ${error.message}`)
      return error
    }
  }

  async mustSucceed(ms = patience): Promise<TransferReport> {
    const outcome = await this.outcome(ms)
    if (outcome instanceof Refusal) {
      throw new Error(`A write that is right failed with ${outcome.code}: ${outcome.message}`)
    }
    return outcome
  }

  async mustFail(codes: readonly string[], promise: PromiseName, why: string): Promise<Refusal> {
    const outcome = await this.outcome()
    must(outcome instanceof Refusal, promise, `${why}, and done resolved.`)
    must(
      codes.includes(outcome.code),
      promise,
      `${why}, and done rejected with ${outcome.code} (${outcome.message}) instead of ${codes.join(' or ')}.`,
    )
    return outcome
  }

  async mustSettle(ms = patience): Promise<void> {
    const settled = this.party.ask('settled', this.number)
    await within(ms, settled, 'settled', 'settled of a transfer').catch((error: unknown) => {
      must(!(error instanceof Refusal), 'settled', `settled rejected: ${String(error)}`)
      throw error
    })
  }

  state() {
    return this.party.ask('state', this.number)
  }

  cancel(reason?: string): Promise<void> {
    return this.party.ask('cancel', this.number, reason)
  }
}
