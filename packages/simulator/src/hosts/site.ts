/** What the hosts of all processes work with. */
import type { Books } from '../books/books.ts'
import type { Checks } from '../checks/checks.ts'
import type { Context } from '../machine/context.ts'

export interface Site {
  readonly context: Context
  readonly books: Books
  readonly checks: Checks
}
