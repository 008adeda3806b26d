/** What a prefill rank and a decode rank have in common. */
import type { Books } from '../books/books.ts'
import { PageBook, type Owner } from '../books/pages.ts'
import type { Context } from '../machine/context.ts'
import { Process, type Slot } from '../machine/process.ts'

export abstract class RankProcess extends Process {
  /** By component that it holds. */
  readonly books: ReadonlyMap<string, PageBook>
  /** The same by the number of the component. */
  readonly #byNumber: readonly (PageBook | undefined)[]
  /** Of each byte: it was posted to since its page was leased. */
  readonly posted: Uint8Array

  constructor(context: Context, { touched }: Books, slot: Slot) {
    super(context, slot)
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

  /** Who owns the page of a byte. Some bytes belong to no page. */
  ownerOf(at: number): Owner | undefined {
    const { componentAt, pageAt } = this.slot.memory
    return this.#byNumber[componentAt[at]!]?.owners[pageAt[at]!]
  }
}
