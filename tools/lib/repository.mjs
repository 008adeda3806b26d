/** Where things are in this repository. Node built-ins only: set-up runs before anything is installed. */
import { existsSync, readFileSync, readdirSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))))

/** Results of set-up steps and downloaded tools; gone with node_modules, which they belong to. */
export const cacheFolder = join(root, 'node_modules', '.cache', 'kvx')

/** Paths of all packages relative to the root: `packages/core`, … */
export const packages = readdirSync(join(root, 'packages'))
  .map((name) => `packages/${name}`)
  .filter((path) => existsSync(join(root, path, 'package.json')))
  .sort()

/** The entry file of the `kvx` command, once it is built. */
export const kvxCommand = join(root, 'packages', 'cli', 'dist', 'main.js')

export const readJson = (path) => JSON.parse(readFileSync(join(root, path), 'utf8'))

/** Those of `packages` that others install. */
export const published = packages.filter(
  (path) => readJson(`${path}/package.json`).private !== true,
)

/**
 * Files below `paths` (files or folders, relative to the root; missing ones are left out), sorted.
 * Generated folders are not entered.
 */
export function filesBelow(paths) {
  const generated = new Set(['node_modules', 'dist', 'build', 'prebuilds', 'results'])
  const enter = (path) => {
    const entries = readdirSync(join(root, path), { withFileTypes: true })
    return entries.flatMap((entry) => {
      const inner = `${path}/${entry.name}`
      if (entry.isDirectory()) return generated.has(entry.name) ? [] : enter(inner)
      return entry.isFile() ? [inner] : []
    })
  }
  return paths
    .filter((path) => existsSync(join(root, path)))
    .flatMap((path) => (statSync(join(root, path)).isDirectory() ? enter(path) : [path]))
    .sort()
}
