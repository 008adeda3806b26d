/** What a prefill rank and a decode rank have in common. */
import type { Memory } from '@kvx/contract'
import type { Books } from '../books/books.ts'
import { PageBook, type Owner } from '../books/pages.ts'
import type { Context } from '../machine/context.ts'
import { Process, type Slot } from '../machine/process.ts'
import { components, type Component } from '../shape/content.ts'

export abstract class RankProcess extends Process {
  readonly books: Readonly<Record<Component, PageBook>>

  constructor(context: Context, { touched }: Books, slot: Slot) {
    super(context, slot)
    const { pages } = context.shape.model
    this.books = {
      kv: new PageBook(`${this.name} (kv)`, pages.kv, touched),
      mamba: new PageBook(`${this.name} (mamba)`, pages.mamba, touched),
    }
  }

  /** Who owns the page of a byte. */
  ownerOf(at: number): Owner | undefined {
    const place = this.slot.memory.pageAt[at]!
    return this.books[components[place >> 8]!].owners[place & 255]
  }

  /** Its memory as the checksums of core read it. */
  regions(): Memory[] {
    const { memory } = this
    const view = (offset: number, length: number) => memory.subarray(offset, offset + length)
    return [{ address: 0n, bytes: memory.length, kind: 'cpu', device: 0, view }]
  }
}
