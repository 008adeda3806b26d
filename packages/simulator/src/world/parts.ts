/** The parts of a world, the lowest first: each is given those below it. */
import { Books } from '../books/books.ts'
import { Checks } from '../checks/checks.ts'
import type { Coverage } from '../checks/coverage.ts'
import { Engines, type Outcomes } from '../engine/engines.ts'
import { Links } from '../engine/links.ts'
import { Staging } from '../engine/staging.ts'
import { Writes } from '../engine/writes.ts'
import { Hosts } from '../hosts/hosts.ts'
import type { Context } from '../machine/context.ts'
import { Bootstraps } from '../network/bootstrap.ts'
import { Cuts } from '../network/cuts.ts'
import { Network } from '../network/network.ts'
import type { Hearing } from '../network/wire.ts'
import { Cast } from '../ranks/cast.ts'

export class Parts {
  readonly context: Context
  readonly coverage: Coverage
  readonly books: Books
  readonly cast: Cast
  readonly network: Network
  readonly bootstraps: Bootstraps
  readonly links: Links
  readonly writes: Writes
  readonly staging: Staging
  readonly engines: Engines
  readonly checks: Checks
  readonly hosts: Hosts

  /** @param above what network and engines tell those above them */
  constructor(
    context: Context,
    coverage: Coverage,
    above: { readonly hearing: Hearing; readonly outcomes: Outcomes },
  ) {
    this.context = context
    this.coverage = coverage
    this.books = new Books(context.clock)
    this.cast = new Cast(context.shape)
    const cuts = new Cuts(context.clock)
    const { books, cast } = this
    this.network = new Network({ context, books, cast, cuts, hearing: above.hearing })
    this.bootstraps = new Bootstraps(context, cast)
    this.writes = new Writes(context, cuts)
    this.links = new Links(context, cast, cuts, this.writes)
    this.staging = new Staging(context, this.writes)
    this.engines = new Engines(context, cast, this, above.outcomes)
    this.checks = new Checks(context, cast, this)
    this.hosts = new Hosts({ context, books, checks: this.checks }, cast, this.bootstraps)
  }
}
