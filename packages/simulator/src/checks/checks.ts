/**
 * The invariants, checked by books that the world keeps itself: who owns a page, which writes may still
 * land, what was said to whom, what a caller waits for. No check reads the state of a reducer, except the
 * last one, that no table holds anything (checks/end.ts). What is wrong with a byte the moment it lands, the engine
 * itself notices (engine/writes.ts).
 */
import type { Staging } from '../engine/staging.ts'
import type { Writes } from '../engine/writes.ts'
import type { Context } from '../machine/context.ts'
import type { Cast } from '../ranks/cast.ts'
import { Deadlines } from './deadlines.ts'
import { Identity } from './identity.ts'
import { Messages } from './messages.ts'
import { News } from './news.ts'

export class Checks {
  readonly identity = new Identity()
  readonly deadlines: Deadlines
  readonly messages: Messages
  readonly news: News

  constructor(context: Context, cast: Cast, engine: { writes: Writes; staging: Staging }) {
    this.deadlines = new Deadlines(context)
    this.messages = new Messages(cast, engine, this.deadlines)
    this.news = new News(context.shape, engine)
  }
}
