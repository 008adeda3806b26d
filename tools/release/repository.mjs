/**
 * `node tools/release/repository.mjs URL`: writes into the manifest of every published package where its sources are, as npm wants it
 * for provenance. The manifests of the repository do not say it: it is true of one place only, which is known where a release is made.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { published, root } from '../lib/repository.mjs'

const [url, ...more] = process.argv.slice(2)
if (more.length > 0 || !/^git\+https:\/\/[^/\s]+\/\S+\.git$/.test(url ?? '')) {
  console.error('usage: node tools/release/repository.mjs git+https://HOST/OWNER/NAME.git')
  process.exit(2)
}
for (const directory of published) {
  const file = join(root, directory, 'package.json')
  const manifest = JSON.parse(readFileSync(file, 'utf8'))
  manifest.repository = { type: 'git', url, directory }
  writeFileSync(file, `${JSON.stringify(manifest, null, 2)}\n`)
}
console.log(`${published.length} packages say that their sources are in ${url}`)
