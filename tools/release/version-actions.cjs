/**
 * What `nx release` does with a version here: every package has the same, and names the others by exactly it. nx's own way of doing that
 * comes with a plugin that would bring a few hundred packages along.
 */
const { readFileSync, writeFileSync } = require('node:fs')
const { join } = require('node:path')
const { VersionActions } = require('nx/release')

const kinds = ['dependencies', 'devDependencies', 'peerDependencies', 'optionalDependencies']
const write = (tree, path, value) => tree.write(path, `${JSON.stringify(value, null, 2)}\n`)

class SameVersion extends VersionActions {
  validManifestFilenames = ['package.json']

  get #path() {
    return `${this.projectGraphNode.data.root}/package.json`
  }

  #manifest(tree) {
    return JSON.parse(tree.read(this.#path, 'utf-8'))
  }

  async readCurrentVersionFromSourceManifest(tree) {
    return { currentVersion: this.#manifest(tree).version, manifestPath: this.#path }
  }

  async readCurrentVersionFromRegistry() {
    throw new Error('The versions of kvx are read from its manifests.')
  }

  async readCurrentVersionOfDependency(tree, _graph, project) {
    const manifest = this.#manifest(tree)
    const dependencyCollection = kinds.find((kind) => manifest[kind]?.[project] !== undefined)
    if (dependencyCollection === undefined)
      return { currentVersion: null, dependencyCollection: null }
    return { currentVersion: manifest[dependencyCollection][project], dependencyCollection }
  }

  async updateProjectVersion(tree, version) {
    write(tree, this.#path, { ...this.#manifest(tree), version })
    return [`${this.#path}: version ${version}`]
  }

  async updateProjectDependencies(tree, _graph, versions) {
    const manifest = this.#manifest(tree)
    const changed = []
    for (const kind of kinds) {
      for (const name of Object.keys(manifest[kind] ?? {})) {
        if (versions[name] === undefined) continue
        manifest[kind][name] = versions[name]
        changed.push(name)
      }
    }
    write(tree, this.#path, manifest)
    return changed.length === 0 ? [] : [`${this.#path}: wants ${changed.join(', ')} likewise`]
  }
}

/** The root and the lock file follow; npm itself would also add or drop packages of other platforms. */
async function afterAllProjectsVersioned(cwd, { dryRun }) {
  const changedFiles = ['package.json', 'package-lock.json']
  if (dryRun) return { changedFiles, deletedFiles: [] }
  const read = (path) => JSON.parse(readFileSync(join(cwd, path), 'utf8'))
  const save = (path, value) =>
    writeFileSync(join(cwd, path), `${JSON.stringify(value, null, 2)}\n`)
  const lock = read('package-lock.json')
  const { version } = read('packages/contract/package.json')
  save('package.json', { ...read('package.json'), version })
  lock.version = version
  lock.packages[''].version = version
  for (const [path, entry] of Object.entries(lock.packages)) {
    if (!path.startsWith('packages/') || path.includes('node_modules')) continue
    const manifest = read(`${path}/package.json`)
    entry.version = version
    for (const kind of kinds) if (manifest[kind] !== undefined) entry[kind] = manifest[kind]
  }
  save('package-lock.json', lock)
  return { changedFiles, deletedFiles: [] }
}

module.exports = SameVersion
module.exports.afterAllProjectsVersioned = afterAllProjectsVersioned
