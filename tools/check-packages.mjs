/**
 * Checks what no compiler does: that each package's TypeScript references are its kvx dependencies,
 * that it declares what its source imports, and that all packages can be published together.
 */
import { readFileSync } from 'node:fs'
import { isBuiltin } from 'node:module'
import { posix } from 'node:path'
import { filesBelow, packages, readJson } from './lib/repository.mjs'

const problems = []
const manifests = new Map(packages.map((path) => [path, readJson(`${path}/package.json`)]))
const folderOf = new Map([...manifests].map(([path, { name }]) => [name, path]))
const { version, license } = readJson('package.json')

const sameSet = (a, b) => a.size === b.size && [...a].every((item) => b.has(item))
const list = (set) => [...set].sort().join(', ') || 'none'
const referencesOf = (path) =>
  new Set(
    (readJson(`${path}/tsconfig.json`).references ?? []).map((item) => posix.join(path, item.path)),
  )

/** Names of the packages that a source file imports; types too, unless `withoutTypes`. */
function importedBy(file, withoutTypes = false) {
  const importing = /(?:^|\s)(?:from|import)\s*\(?\s*'([^'.][^']*)'/g
  const text = readFileSync(file, 'utf8')
  const code = withoutTypes ? text.replaceAll(/^(import|export) type [^']*'[^']*'/gm, '') : text
  const specifiers = [...code.matchAll(importing)].map((match) => match[1])
  return specifiers
    .filter((specifier) => !isBuiltin(specifier))
    .map((specifier) =>
      specifier
        .split('/')
        .slice(0, specifier.startsWith('@') ? 2 : 1)
        .join('/'),
    )
}

for (const [path, manifest] of manifests) {
  const report = (text) => problems.push(`${path}: ${text}`)
  const runtime = { ...manifest.dependencies, ...manifest.peerDependencies }
  const declared = { ...runtime, ...manifest.optionalDependencies }

  if (manifest.version !== version)
    report(`version is ${manifest.version}, the root's is ${version}`)
  if (manifest.license !== license)
    report(`license is ${manifest.license}, the root's is ${license}`)
  if (manifest.type !== 'module') report('"type" is not "module"')
  if (manifest.exports === undefined) report('"exports" is missing')
  if (!Array.isArray(manifest.files)) report('"files" is missing')
  if (!manifest.description) report('"description" is missing')

  const siblings = Object.entries(declared).filter(([name]) => folderOf.has(name))
  for (const [name, range] of siblings) {
    if (range !== version) report(`wants ${name} ${range}, this repository holds ${version}`)
  }
  const wanted = new Set(siblings.map(([name]) => folderOf.get(name)))
  const references = referencesOf(path)
  if (!sameSet(wanted, references)) {
    report(`tsconfig.json refers to ${list(references)}; its kvx dependencies are ${list(wanted)}`)
  }

  for (const file of filesBelow([`${path}/src`])) {
    if (!file.endsWith('.ts')) continue
    const running = new Set(importedBy(file, true))
    for (const name of new Set(importedBy(file))) {
      const known = running.has(name) ? declared : { ...declared, ...manifest.devDependencies }
      if (name !== manifest.name && known[name] === undefined) {
        report(`${posix.relative(path, file)} imports ${name}, which package.json does not name`)
      }
    }
  }

  for (const bin of Object.values(manifest.bin ?? {})) {
    const target = posix.normalize(bin)
    const source = target.replace(/^dist\/(.*)\.js$/, 'src/$1.ts')
    if (!filesBelow([`${path}/${source}`]).length)
      report(`"bin" names ${target}, which nothing makes`)
    const [folder] = target.split('/')
    if (!manifest.files?.includes(folder))
      report(`"files" leaves out ${folder}, where "bin" points`)
  }
}

for (const config of ['tsconfig.json', 'tsconfig.test.json']) {
  const { references } = readJson(config)
  const listed = new Set(
    references
      .map(({ path }) => path)
      .filter((path) => path !== 'tsconfig.test.json' && !path.startsWith('examples/')),
  )
  if (!sameSet(listed, new Set(packages))) {
    problems.push(`${config} refers to ${list(listed)}; the packages are ${packages.join(', ')}`)
  }
}

// Set-up installs what the lock file names and never changes it, so that nobody else would notice.
const { packages: locked } = readJson('package-lock.json')
const kinds = ['dependencies', 'devDependencies', 'optionalDependencies', 'peerDependencies']
for (const [path, manifest] of [['', readJson('package.json')], ...manifests]) {
  const wanted = (one) =>
    JSON.stringify(kinds.map((kind) => Object.entries(one?.[kind] ?? {}).sort()))
  if (wanted(manifest) !== wanted(locked[path])) {
    problems.push(
      `${path || 'package.json'}: package-lock.json does not have its dependencies: run npm install`,
    )
  }
}

for (const problem of problems) console.log(problem)
if (problems.length > 0) process.exitCode = 1
