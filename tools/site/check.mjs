/** Every address and anchor that a page of a built site names must be in that site; addresses elsewhere are not looked at. */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join, posix } from 'node:path'

export function linkProblems(folder) {
  const files = readdirSync(folder, { recursive: true }).filter((file) => file.endsWith('.html'))
  const texts = new Map(files.map((file) => [`/${file}`, readFileSync(join(folder, file), 'utf8')]))
  const anchors = new Map()
  const anchorsOf = (page) => {
    const known = anchors.get(page) ?? new Set(attributes(texts.get(page), 'id'))
    anchors.set(page, known)
    return known
  }
  const problems = new Set()
  for (const [page, text] of texts) {
    for (const link of [...attributes(text, 'href'), ...attributes(text, 'src')]) {
      if (/^([a-z]+:|\/\/)/.test(link)) continue
      const [path, anchor] = link.split('#')
      const target =
        path === ''
          ? page
          : posix.resolve(posix.dirname(page), path) +
            (path.endsWith('/') && path !== '/' ? '/' : '')
      const file = [target, `${target}.html`, posix.join(target, 'index.html')].find((name) =>
        texts.has(name),
      )
      if (file === undefined && !existsSync(join(folder, target)))
        problems.add(`${page} links to ${path}, which is not there.`)
      else if (file !== undefined && anchor && !anchorsOf(file).has(decodeURIComponent(anchor)))
        problems.add(`${page} links to ${link}, which has no such heading.`)
    }
  }
  return { pages: files.length, problems: [...problems] }
}

function attributes(html, name) {
  return [...html.matchAll(new RegExp(`\\s${name}="([^"]*)"`, 'g'))].map(([, value]) =>
    decoded(value),
  )
}

const decoded = (text) =>
  text.replaceAll('&amp;', '&').replaceAll('&quot;', '"').replaceAll('&#39;', "'")
