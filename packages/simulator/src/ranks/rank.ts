/** What a prefill rank and a decode rank have in common. */
import type { Books } from '../books/books.ts'
import { PageBook, type Owner } from '../books/pages.ts'
import type { Context } from '../machine/context.ts'
import { violate } from '../machine/violation.ts'
import { Process, type Slot } from '../machine/process.ts'

export abstract class RankProcess extends Process {
  /** By component that it holds. */
  readonly books: ReadonlyMap<string, PageBook>
  /** The same by the number of the component. */
  readonly #byNumber: readonly (PageBook | undefined)[]
  /** Of each byte: it was posted to since its page was leased. */
  readonly posted: Uint8Array

  /** @param staging bytes of staging memory, which lies behind the regions */
  constructor(context: Context, { touched }: Books, slot: Slot, staging: number) {
    super(context, slot, staging)
    const byNumber: (PageBook | undefined)[] = []
    const books = new Map<string, PageBook>()
    for (const { component, number, pages } of slot.memory.held) {
      const book = new PageBook(`${this.name} (${component.name})`, pages, touched)
      byNumber[number] = book
      books.set(component.name, book)
    }
    this.books = books
    this.#byNumber = byNumber
    this.posted = new Uint8Array(slot.memory.bytes)
  }

  /** The address of a place in the staging memory. */
  bayAt(offset: number, bytes: number): number {
    const at = this.slot.memory.bytes + offset
    if (at + bytes > this.memory.length) violate('outside of the staging memory', this.name)
    return at
  }

  /** Who owns the page of a byte. Some bytes belong to no page. */
  ownerOf(at: number): Owner | undefined {
    const { componentAt, pageAt } = this.slot.memory
    return this.#byNumber[componentAt[at]!]?.owners[pageAt[at]!]
  }
}
