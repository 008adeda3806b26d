/**
 * `node tools/pack-earlier.mjs COMMIT FILE.tgz`: the control plane (@kvx/core and @kvx/contract) of a commit, as JavaScript, for the tests of
 * version skew. The same commit gives the same bytes.
 */
import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { argv, exit } from 'node:process'
import ts from 'typescript'
import { root } from './lib/repository.mjs'

const [commit, file] = argv.slice(2)
if (file === undefined) {
  console.error('usage: node tools/pack-earlier.mjs COMMIT FILE.tgz')
  exit(2)
}
const packages = ['contract', 'core']

/** Without comments: nobody reads it. */
const compilerOptions = {
  target: ts.ScriptTarget.ES2023,
  module: ts.ModuleKind.ESNext,
  verbatimModuleSyntax: true,
  rewriteRelativeImportExtensions: true,
  removeComments: true,
}

const git = (...args) =>
  execFileSync('git', args, { cwd: root, encoding: 'utf8', maxBuffer: 2 ** 28 })

const folder = mkdtempSync(join(tmpdir(), 'kvx-earlier-'))
try {
  for (const name of packages) {
    const from = `packages/${name}`
    const to = join(folder, '@kvx', name)
    const files = git('ls-tree', '-r', '--name-only', commit, `${from}/src`).trim().split('\n')
    for (const path of files.filter((one) => one.endsWith('.ts'))) {
      const source = git('show', `${commit}:${path}`)
      const { outputText } = ts.transpileModule(source, { compilerOptions, fileName: path })
      const target = join(to, 'dist', path.slice(`${from}/src/`.length).replace(/\.ts$/, '.js'))
      mkdirSync(dirname(target), { recursive: true })
      writeFileSync(target, outputText)
    }
    writeFileSync(join(to, 'package.json'), git('show', `${commit}:${from}/package.json`))
  }
  const tar = execFileSync(
    'tar',
    [
      '--sort=name',
      '--mtime=@0',
      '--owner=0',
      '--group=0',
      '--numeric-owner',
      '--mode=u=rwX,go=rX',
      '-cf',
      '-',
      '@kvx',
    ],
    { cwd: folder, maxBuffer: 2 ** 28 },
  )
  writeFileSync(resolve(file), execFileSync('gzip', ['-9n'], { input: tar, maxBuffer: 2 ** 28 }))
} finally {
  rmSync(folder, { recursive: true })
}
