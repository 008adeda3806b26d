/**
 * The site: docs/, the README of each package, SECURITY.md, CONTRIBUTING.md and, from build/api/, the reference that
 * TypeDoc makes. `npm run site` builds it into build/site/; `npx vitepress dev docs` shows it while one writes.
 */
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { defineConfig } from 'vitepress'
import { published, readJson, root } from '../../tools/lib/repository.mjs'
import { documented } from '../../tools/site/typedoc.config.mjs'
import { address, followLinks, pageOf, srcExclude } from './links.mjs'

const page = (text, file) => ({ text, link: address(file) })
const section = (text, items) => ({ text, collapsed: false, items })
const nameOf = (path) => readJson(`${path}/package.json`).name
const optional = (item, file) => (existsSync(join(root, file)) ? [item] : [])

const engines = section('Engines', [
  page('Choose an engine', 'docs/choose-an-engine.md'),
  page('GPU memory', 'docs/engines/cuda.md'),
  page('Mooncake', 'docs/engines/mooncake.md'),
  page('MORI', 'docs/engines/mori.md'),
  ...optional(
    page('Write an engine', 'docs/engines/write-an-engine.md'),
    'docs/engines/write-an-engine.md',
  ),
  page('Prove an engine', 'docs/engines/conformance.md'),
])

const decisions = readdirSync(join(root, 'docs', 'adr'))
  .filter((name) => name.endsWith('.md'))
  .map((name) => page(name.replace('.md', '').replaceAll('-', ' '), `docs/adr/${name}`))

const sidebar = [
  section('Use it', [
    page('Start', 'docs/start.md'),
    page('Embed it in your server', 'docs/embed.md'),
    page('Examples', 'examples/README.md'),
    page('Hosts in Python', 'docs/python-hosts.md'),
  ]),
  engines,
  section('Operate it', [
    page('Operation', 'docs/operations.md'),
    page('Router', 'docs/router.md'),
    page('Images and units', 'docker/README.md'),
    page('Configuration', 'docs/configuration.md'),
    page('HTTP interface', 'docs/http-api.md'),
    page('Errors', 'docs/errors.md'),
    page('Security', 'SECURITY.md'),
    page('Measuring', 'docs/bench.md'),
    page('Benchmarks', 'docs/benchmarks.md'),
  ]),
  section('How it works', [
    page('Architecture', 'docs/architecture.md'),
    page('Layouts', 'docs/layouts.md'),
    page('Wire protocol', 'docs/wire-protocol.md'),
    page('Reliability', 'docs/reliability.md'),
    { text: 'Decisions', collapsed: true, items: decisions },
    page('Contributing', 'CONTRIBUTING.md'),
  ]),
  section(
    'Packages',
    published.flatMap((path) =>
      optional(page(nameOf(path), `${path}/README.md`), `${path}/README.md`),
    ),
  ),
  section(
    'API reference',
    documented.map((path) => ({ text: nameOf(path), link: `/api/${nameOf(path)}` })),
  ),
]

export default defineConfig({
  title: 'kvx',
  description: 'KV-cache transfer for prefill/decode-disaggregated LLM serving',
  srcDir: root,
  outDir: join(root, 'build', 'site'),
  cacheDir: join(root, 'node_modules', '.cache', 'vitepress'),
  srcExclude,
  rewrites: (file) => pageOf(file) ?? file,
  // Nothing is asked from elsewhere: fonts of the system, and an index that is part of the site.
  themeConfig: {
    search: { provider: 'local' },
    outline: [2, 3],
    nav: [
      page('Start', 'docs/start.md'),
      page('Embed', 'docs/embed.md'),
      page('Operate', 'docs/operations.md'),
      { text: 'API', link: '/api/' },
    ],
    sidebar,
  },
  markdown: { config: followLinks, languageAlias: { mjs: 'js' } },
  vite: { build: { chunkSizeWarningLimit: 5_000 } }, // the page of a package is one chunk
})
