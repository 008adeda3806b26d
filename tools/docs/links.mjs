/** Files that a page links to must exist; addresses elsewhere are not looked at. */
import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { root } from '../lib/repository.mjs'

export function linkProblems(page, text) {
  const links = [...text.matchAll(/\]\((?!https?:|#)([^)#\s]+)/g)].map(([, link]) => link)
  return [...new Set(links)]
    .filter((link) => !existsSync(join(root, dirname(page), link)))
    .map((link) => `${page} links to ${link}, which does not exist.`)
}
