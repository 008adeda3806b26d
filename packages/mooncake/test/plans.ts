import type { TransferPlan } from '@kvx/contract'

/** Copies `pages` pages of `pageBytes` from the start of source region 0 to the start of destination region 0. */
export function wholePages(pages: number, pageBytes: number): TransferPlan {
  return scattered(pages, pageBytes, (page) => page)
}

/** Page `p` goes to page `target(p)`, each as a piece of its own. */
export function scattered(
  pages: number,
  pageBytes: number,
  target: (page: number) => number,
): TransferPlan {
  const groups = Array.from({ length: pages }, (_, page) => [page, target(page), 1]).flat()
  return {
    lanes: Float64Array.from([0, 0, 0, 0, pageBytes, pageBytes, pageBytes, 1, 0, 0]),
    groups: Int32Array.from(groups),
    blocks: Int32Array.from([0, pages, 0, 1]),
  }
}
