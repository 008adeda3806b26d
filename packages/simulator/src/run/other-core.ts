/** Runs the simulator against another build of @kvx/core, as mutants of it are. */
import { existsSync } from 'node:fs'
import { register } from 'node:module'
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'

const entries = {
  '@kvx/core': 'index.js',
  '@kvx/core/backend': 'backend/index.js',
  '@kvx/core/bytes': 'bytes.js',
  '@kvx/core/protocol': 'protocol/index.js',
}

/**
 * From now on `import '@kvx/core'` loads the build in `folder`. Modules that were loaded before stay as
 * they are, so this must be called before anything of core is.
 *
 * @param folder what `tsc` makes of packages/core/src, as packages/core/dist is
 * @throws Error when there is no such build
 */
export function useCore(folder: string): void {
  const root = resolve(folder)
  for (const file of Object.values(entries)) {
    if (!existsSync(resolve(root, file)))
      throw new Error(`${root} is no build of @kvx/core: it has no ${file}.`)
  }
  const targets = Object.fromEntries(
    Object.entries(entries).map(([name, file]) => [name, pathToFileURL(resolve(root, file)).href]),
  )
  const data = { targets, root: pathToFileURL(root).href, home: import.meta.url }
  register(`data:text/javascript,${encodeURIComponent(hooks)}`, {
    parentURL: import.meta.url,
    data,
  })
}

/** What the other build imports from elsewhere is found where the simulator finds it. */
const hooks = `
let data
export function initialize(given) { data = given }
export async function resolve(specifier, context, next) {
  const target = data.targets[specifier]
  if (target !== undefined) return { url: target, shortCircuit: true }
  const isFromOther = context.parentURL?.startsWith(data.root)
  if (isFromOther && specifier === './zeromq.js') {
    // It looks for libzmq from where it lies, and is not what is simulated.
    const own = await next('@kvx/core', { ...context, parentURL: data.home })
    return { url: new URL('control/zeromq.js', own.url).href, shortCircuit: true }
  }
  const isBare = !specifier.startsWith('.') && !specifier.startsWith('node:') && !specifier.includes('://')
  if (isBare && isFromOther) return next(specifier, { ...context, parentURL: data.home })
  return next(specifier, context)
}
`
