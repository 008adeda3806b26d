/** `node tools/format.mjs --check | --write`: prettier for everything it knows, clang-format for C and C++. */
import { extname, join } from 'node:path'
import { clangFormat } from './lib/clang-format.mjs'
import { filesBelow, packages, root } from './lib/repository.mjs'
import { run } from './lib/run.mjs'

const mode = process.argv[2]
if (mode !== '--check' && mode !== '--write') {
  console.error('usage: node tools/format.mjs --check | --write')
  process.exit(2)
}

const prettier = join(root, 'node_modules', '.bin', 'prettier')
const folders = packages.flatMap((path) =>
  ['native', 'include', 'test', 'bench'].map((name) => `${path}/${name}`),
)
const nativeFiles = filesBelow(folders).filter((file) =>
  ['.h', '.cc', '.cpp', '.c'].includes(extname(file)),
)

const { ok, output } = await run('prettier', prettier, [mode, '--log-level=warn', '.'])
if (output !== '') console.log(output.trimEnd())

let nativeOk = true
if (nativeFiles.length > 0) {
  const how = mode === '--check' ? ['--dry-run', '--Werror'] : ['-i']
  const native = await run('clang-format', await clangFormat(), [...how, ...nativeFiles])
  nativeOk = native.ok
  // One line per place would hide the rest: the files are enough.
  const places = [...native.output.matchAll(/^(\S+?):\d+:\d+: error: code should be/gm)]
  const files = new Set(places.map((match) => match[1]))
  if (files.size > 0) console.log([...files].map((file) => `[warn] ${file}`).join('\n'))
  else if (native.output !== '') console.log(native.output.trimEnd())
}

if (!ok || !nativeOk) {
  if (mode === '--check') console.log('`npm run format` repairs this.')
  process.exitCode = 1
}
