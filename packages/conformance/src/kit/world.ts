/** What a check has at hand: processes and engines, fresh for it. */
import type { Capabilities } from '@kvx/contract'
import type { Fixture } from '../fixture.ts'
import { Host, newGeneration, type Link } from './host.ts'
import type { Parties } from './parties.ts'
import { Refusal, type Party, type Side } from './party.ts'
import { must, type PromiseName } from './promises.ts'

/** What an engine of the fixture says of itself. */
export interface Facts {
  readonly capabilities: Capabilities
  readonly backend: string
  readonly tellsPeerGone: boolean
  readonly stages: boolean
  /** The memory of both sides is the host's. */
  readonly inHost: boolean
}

export interface Pair {
  readonly writer: Host
  readonly owner: Host
  readonly link: Link
}

export class World {
  readonly fixture: Fixture
  readonly facts: Facts
  readonly #parties: Parties
  readonly #used: Party[] = []

  constructor(fixture: Fixture, facts: Facts, parties: Parties) {
    this.fixture = fixture
    this.facts = facts
    this.#parties = parties
  }

  party(side: Side): Party {
    const party = this.#parties.take(side)
    this.#used.push(party)
    return party
  }

  async host(
    side: Side,
    bytes: readonly number[] = [],
    { party = this.party(side), generation = newGeneration() } = {},
  ): Promise<Host> {
    const opened = await party.ask('open', generation)
    const host = new Host(party, { ...opened, generation })
    for (const each of bytes) await host.provide(each)
    return host
  }

  /** A writer and an owner with a region of `bytes` each, in two processes, connected. */
  async pair(bytes: number): Promise<Pair> {
    const [writer, owner] = await Promise.all([
      this.host('writer', [bytes]),
      this.host('owner', [bytes]),
    ])
    return { writer, owner, link: await writer.connect(owner.peer) }
  }

  /** Gives the processes back. @throws BrokenPromise when one of them had a rejection that nobody handled */
  async end(): Promise<void> {
    const used = this.#used.splice(0)
    for (const party of used) if (party.isAlive) party.thaw()
    await Promise.all(used.map((party) => this.#parties.giveBack(party)))
    for (const { side, unhandled } of used) {
      must(unhandled.length === 0, 'write', `Nobody handled in the ${side}: ${String(unhandled)}`)
    }
  }
}

/** What `call` was refused with. @throws BrokenPromise when it was not, or with another code */
export async function refusal(
  call: Promise<unknown>,
  codes: readonly string[],
  promise: PromiseName,
  what: string,
): Promise<Refusal> {
  const error: unknown = await call.then(
    () => undefined,
    (reason: unknown) => reason,
  )
  must(error !== undefined, promise, `${what} was accepted.`)
  if (!(error instanceof Refusal)) throw toError(error)
  must(
    error.isKvxError && codes.includes(error.code),
    promise,
    `${what} was refused with ${error.isKvxError ? error.code : 'no KvxError'} (${error.message}) instead of ${codes.join(' or ')}.`,
  )
  must(error.message !== '', promise, `${what} was refused without a reason.`)
  return error
}

const toError = (reason: unknown): Error =>
  reason instanceof Error ? reason : new Error(String(reason))
