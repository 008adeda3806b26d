/** The API reference: a page per published package, from the docstrings of what its main entry exports. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { published, root } from '../lib/repository.mjs'

const entryOf = (path) => join(root, path, 'src', 'index.ts')

/** All that others build on: not the simulator, whose exports serve those who change kvx. */
export const documented = published.filter(
  (path) => path !== 'packages/simulator' && existsSync(entryOf(path)),
)

/** For TypeDoc, whose plugin for Markdown takes those from `outputFileStrategy` on. */
export default {
  plugin: ['typedoc-plugin-markdown', join(import.meta.dirname, 'module-names.mjs')],
  tsconfig: join(import.meta.dirname, 'tsconfig.json'),
  basePath: root,
  entryPoints: documented.map(entryOf),
  // What a host or the author of an engine builds on has docstrings.
  packagesRequiringDocumentation: ['contract', 'core', 'native', 'shm'].map(
    (name) => `@kvx/${name}`,
  ),
  out: join(root, 'build', 'api'),
  readme: 'none',
  skipErrorChecking: true, // `tsc -b` does that
  disableSources: true,
  excludeInternal: true,
  requiredToBeDocumented: [
    'Class',
    'Interface',
    'Function',
    'Method',
    'Variable',
    'TypeAlias',
    'Accessor',
  ],
  validation: { notExported: true, invalidLink: true, notDocumented: true },
  treatWarningsAsErrors: true,
  outputFileStrategy: 'modules',
  entryFileName: 'index',
  hidePageHeader: true,
  hideBreadcrumbs: true,
  interfacePropertiesFormat: 'htmlTable',
  useCodeBlocks: true,
}
