/**
 * Checks what others install: packs every published package, and looks at the archives as npm, TypeScript and bundlers
 * will. ADR 16 says what is promised. With `--with-prebuilds`, for a release, also that every compiled file is there and that
 * every manifest says where the sources are.
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, posix } from 'node:path'
import { checkPackage, createPackageFromTarballData } from '@arethetypeswrong/core'
import { publint } from 'publint'
import { formatMessage } from 'publint/utils'
import { published, readJson, root } from './lib/repository.mjs'
import { recipeOf } from '../packages/native/dist/sources.js'

const withPrebuilds = process.argv.includes('--with-prebuilds')

/** Permit use and redistribution. MPL: of files that kvx does not change (libzmq). */
const licences =
  /^(MIT|ISC|0BSD|BSD-[23]-Clause|Apache-2\.0|BlueOak-1\.0\.0|Unlicense|MPL-2\.0|Python-2\.0)$/

/** All kinds of files that a package may hold: what is none of these got into an archive by mistake. */
const kinds = [
  /^(package\.json|README\.md|LICENSE|kvx\.gypi)$/,
  /^dist\/[\w./-]+\.(js|js\.map|d\.ts)$/,
  /^src\/[\w./-]+\.ts$/,
  /^bin\/[\w-]+\.js$/,
  /^native\/([\w./-]+\.(cc|h|c|map)|addon\.json)$/,
  /^include\/kvx\/[\w./-]+\.(h|cu|ptx)$/,
  /^prebuilds\/linux-(x64|arm64)\/(\w+\.(glibc|musl)\.node|lib\w+(-\w+)?\.so\.\d+)$/,
  /^prebuilds\/zeromq\/(\w+\.js|package\.json|LICENSE[\w.-]*\.txt)$/,
  /^guest\/\w+$/, // scripts of an emulated machine
  /^page\/\w+\.(html|css|js)$/,
]

/**
 * Where the sources are is known where a release is made: tools/release/repository.mjs writes it, and npm compares it with where the
 * release came from.
 */
function repositoryHolds(path, { repository }) {
  if (!withPrebuilds) return repository === undefined
  return repository?.directory === path && /^git\+https:\/\/.+\.git$/.test(repository.url)
}

/** What a package must have beyond what check-packages.mjs wants of all. */
function manifestProblems(path, manifest) {
  const scripts = Object.keys(manifest.scripts ?? {})
  const programs = Object.values(manifest.bin ?? {})
  const rules = [
    [
      manifest.engines?.node === readJson('package.json').engines.node,
      '"engines" is not the root\'s',
    ],
    [
      repositoryHolds(path, manifest),
      withPrebuilds
        ? 'does not say where its sources are: node tools/release/repository.mjs URL'
        : '"repository" is in the manifest: a release writes it',
    ],
    [!programs.some((file) => file.startsWith('.')), '"bin" begins with ., which npm corrects'],
    [manifest.keywords?.length > 0, '"keywords" is missing'],
    [manifest.sideEffects !== undefined, '"sideEffects" is missing'],
    [manifest.exports['./package.json'] !== undefined, '"exports" leaves out ./package.json'],
    [
      !scripts.some((name) => /^(pre|post)?(install|prepare|prepublish)$|^prebuild$/.test(name)),
      `has a script that npm runs by itself: ${scripts.join(', ')}`,
    ],
    ...Object.entries({ ...manifest.dependencies, ...manifest.optionalDependencies }).map(
      ([name, range]) => [/^\d+\.\d+\.\d+$/.test(range), `${name} ${range} is no exact version`],
    ),
  ]
  return rules.filter(([holds]) => !holds).map(([, problem]) => problem)
}

/** What `npm run prebuild:native -- --all` makes, and only a release must have: names of files in the archive. */
function missingPrebuilds(path, files) {
  const recipe = recipeOf(join(root, path))
  const names = path === 'packages/core' ? ['zeromq'] : recipe === undefined ? [] : [recipe.name]
  const platforms = recipe?.platforms ?? ['linux-x64', 'linux-arm64']
  const libcs = recipe?.libstdcxx === true ? ['glibc'] : ['glibc', 'musl']
  return names
    .flatMap((name) =>
      platforms.flatMap((platform) =>
        libcs.map((libc) => `prebuilds/${platform}/${name}.${libc}.node`),
      ),
    )
    .filter((name) => !files.has(name))
    .map((name) => `${name} is not packed: npm run prebuild:native -- --all`)
}

/** `files` are the paths in the archive; `text` reads one. */
function archiveProblems(manifest, files, text) {
  const problems = ['LICENSE', 'README.md']
    .filter((name) => !files.has(name))
    .map((name) => `${name} is not packed`)
  for (const program of Object.values(manifest.bin ?? {})) {
    if (!files.has(program)) problems.push(`"bin" names ${program}, which is not packed`)
    else if (!text(program).startsWith('#!/usr/bin/env node\n'))
      problems.push(`${program} does not begin with #!/usr/bin/env node`)
  }
  for (const name of files) {
    if (!kinds.some((kind) => kind.test(name)))
      problems.push(`${name} is packed, and is no kind of file that belongs into a package`)
    if (/^dist\/.*\.js$/.test(name)) {
      const map = `\n//# sourceMappingURL=${posix.basename(name)}.map`
      if (!files.has(`${name}.map`) || !text(name).trimEnd().endsWith(map))
        problems.push(`${name} has no source map`)
    }
    if (!name.endsWith('.js.map')) continue
    const { sources } = JSON.parse(text(name))
    for (const source of sources) {
      const target = posix.normalize(posix.join(posix.dirname(name), source))
      if (!files.has(target)) problems.push(`${name} refers to ${target}, which is not packed`)
    }
  }
  return problems
}

/** As TypeScript sees it from nodenext (ESM and CommonJS) and with bundlers. Resolution as in Node 10 knows no "exports". */
async function typeProblems(archive) {
  const { problems = [] } = await checkPackage(createPackageFromTarballData(archive))
  return (
    problems
      .filter(({ resolutionKind }) => resolutionKind !== 'node10')
      // Right for a package of ES modules only: require() of it works from Node 20.19 on.
      .filter(({ kind }) => kind !== 'CJSResolvesToESM')
      .map(({ kind, entrypoint, resolutionKind }) => `${kind}: ${entrypoint} (${resolutionKind})`)
  )
}

/** Of everything that the published packages bring along. */
function licenceProblems() {
  const { packages } = readJson('package-lock.json')
  const seen = new Set(published)
  const problems = []
  for (const at of seen) {
    const { dependencies, optionalDependencies, license, link, resolved } = packages[at]
    if (link === true) {
      seen.add(resolved)
      continue
    }
    const choices = String(license).replaceAll(/[()]/g, '').split(' OR ')
    if (!choices.some((choice) => choice.split(' AND ').every((one) => licences.test(one)))) {
      problems.push(`${at}: its licence is ${license}`)
    }
    for (const name of Object.keys({ ...dependencies, ...optionalDependencies })) {
      for (let folder = at; ; folder = folder.replace(/(^|\/)(node_modules\/)?[^/]*$/, '')) {
        const place = posix.join(folder, 'node_modules', name)
        if (packages[place] !== undefined) seen.add(place)
        if (packages[place] !== undefined || folder === '') break
      }
    }
  }
  return problems
}

/** The same third-party package in two versions would be installed twice. */
function versionProblems() {
  const versions = new Map()
  for (const path of published) {
    for (const [name, version] of Object.entries(
      readJson(`${path}/package.json`).dependencies ?? {},
    )) {
      const known = versions.get(name)
      if (known !== undefined && known.version !== version)
        return [`${path} wants ${name} ${version}, ${known.path} wants ${known.version}`]
      versions.set(name, { version, path })
    }
  }
  return []
}

const problems = [...licenceProblems(), ...versionProblems()]
const folder = mkdtempSync(join(tmpdir(), 'kvx-pack-'))
try {
  const pack = spawnSync(
    'npm',
    [
      'pack',
      '--json',
      '--ignore-scripts',
      '--loglevel=error',
      `--pack-destination=${folder}`,
    ].concat(published.map((path) => `--workspace=${path}`)),
    { cwd: root, encoding: 'utf8' },
  )
  if (pack.status !== 0) throw new Error(`npm pack failed\n${pack.stderr}`)
  const packed = new Map(JSON.parse(pack.stdout).map((one) => [one.name, one]))
  for (const path of published) {
    const manifest = readJson(`${path}/package.json`)
    const { filename, files } = packed.get(manifest.name)
    const archive = readFileSync(join(folder, filename))
    const found = [
      ...manifestProblems(path, manifest),
      ...archiveProblems(manifest, new Set(files.map((file) => file.path)), (name) =>
        readFileSync(join(root, path, name), 'utf8'),
      ),
      ...(await typeProblems(archive)),
      ...(withPrebuilds ? missingPrebuilds(path, new Set(files.map((file) => file.path))) : []),
    ]
    const linted = await publint({
      pack: {
        tarball: archive.buffer.slice(archive.byteOffset, archive.byteOffset + archive.length),
      },
      strict: true,
    })
    found.push(
      ...linted.messages.map((message) => formatMessage(message, linted.pkg, { color: false })),
    )
    problems.push(...found.map((problem) => `${path}: ${problem}`))
  }
} finally {
  rmSync(folder, { recursive: true, force: true })
}
for (const problem of problems) console.log(problem)
if (problems.length > 0) process.exitCode = 1
