/**
 * Where a file of the repository is found in the site. Pages link to each other as files, so that the links also lead somewhere
 * where the repository itself is read. Here they become addresses in the site, or in the repository for what is not a page.
 */
import { existsSync, statSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { readJson, root } from '../../tools/lib/repository.mjs'

const repository = readJson('packages/core/package.json').repository?.url.replace(
  /^git\+|\.git$/g,
  '',
)

const rules = [
  [/^docs\/(.+\.md)$/, '$1'],
  [/^build\/(api\/.+\.md)$/, '$1'],
  [/^(packages\/[^/]+|examples|docker)\/README\.md$/, '$1.md'],
  [/^SECURITY\.md$/, 'security.md'],
  [/^CONTRIBUTING\.md$/, 'contributing.md'],
]

/** What is not a page, for VitePress' glob. */
export const srcExclude = [
  '!(docs|packages|build|examples|docker|SECURITY.md|CONTRIBUTING.md)/**',
  ...['build/!(api)/**', 'docker/*/**', 'examples/*/**', 'packages/*/*/**'],
]

/** The page of the file `path`, both relative: `packages/shm/README.md` is `packages/shm.md`. */
export function pageOf(path) {
  const rule = rules.find(([pattern]) => pattern.test(path))
  return rule === undefined ? undefined : path.replace(...rule)
}

/** The address of a page in the site: `/packages/shm`. */
export const address = (path) => `/${pageOf(path).replace(/(?<=^|\/)index\.md$|\.md$/, '')}`

/** A plugin of markdown-it. */
export function followLinks(md) {
  md.core.ruler.push('kvx-links', ({ tokens, env }) => {
    const from = dirname(relative(root, env.realPath ?? env.path)) // for the search index there is only `path`
    for (const { children } of tokens) follow(children ?? [], from)
  })
}

/** Links of a page in the folder `from`. What does not exist stays as it is: VitePress reports it. */
function follow(tokens, from) {
  for (const [i, token] of tokens.entries()) {
    if (token.type !== 'link_open') continue
    const [, path, rest] = /^([^#?]*)(.*)$/.exec(token.attrGet('href'))
    if (path === '' || /^([a-z]+:|\/)/.test(path)) continue
    const file = join(from, decodeURI(path)).replace(/\/$/, '')
    if (!existsSync(join(root, file))) continue
    const target = targetOf(file)
    if (target !== undefined) token.attrSet('href', target + rest)
    else for (const one of [token, tokens.slice(i).find(isEnd)]) one.type = 'text'
  }
}

const isEnd = ({ type }) => type === 'link_close'

/** Undefined for what is not in the site as long as the packages do not say where the repository is. */
function targetOf(file) {
  if (file === 'README.md') return '/'
  const readme = `${file}/README.md`
  const source = existsSync(join(root, readme)) ? readme : file
  if (pageOf(source) !== undefined) return address(source)
  const kind = statSync(join(root, file)).isDirectory() ? 'tree' : 'blob'
  return repository && `${repository}/${kind}/main/${file}`
}
