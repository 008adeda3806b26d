/**
 * `npm run test:sanitize [-- ARGUMENTS]`: the tests of @kvx/native and @kvx/shm with every addon, driver and program
 * of theirs built by the compiler's sanitizers: of addresses, of undefined behaviour, of threads. Arguments go to
 * vitest; `--only address`, `undefined` or `thread` takes one of them. It works in copies of the packages below
 * build/sanitize/, so that the builds here stay as they are. A report of any process fails the run, also when the test
 * that started the process passes. Before the tests an addon with known defects shows that reports arrive.
 */
import { execFileSync, spawnSync } from 'node:child_process'
import {
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmSync,
  symlinkSync,
} from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { filesBelow, packages, root } from './lib/repository.mjs'
import { run } from './lib/run.mjs'

/** What each build is compiled with, what Node loads first, and the runtime's settings. */
const sanitizers = {
  address: {
    flags: '-fsanitize=address',
    runtime: 'libasan.so',
    // Node and V8 free little when they end, which is no leak of ours; the suites count memory, descriptors and threads.
    options: { ASAN_OPTIONS: 'detect_leaks=0' },
    defects: ['overflow', 'used after it was freed'],
  },
  // Alone: beside that of addresses its reports do not reach the folder.
  undefined: {
    // A report ends the process also where the compiler would go on. With checks of null an address of a function is no constant, which
    // the headers of Node's C++ interface need; whoever uses a null pointer is ended anyway.
    flags:
      '-fsanitize=undefined -fno-sanitize-recover=all ' +
      '-fno-sanitize=null,nonnull-attribute,returns-nonnull-attribute',
    runtime: 'libubsan.so',
    options: { UBSAN_OPTIONS: 'print_stacktrace=1' },
    defects: ['undefined'],
  },
  thread: {
    // Node exports code of the C++ library that is not instrumented: a count of references in there would hide who waits for whom.
    flags: '-fsanitize=thread -Wl,-Bsymbolic',
    runtime: 'libtsan.so',
    // Node itself is not instrumented: what it does between its own threads cannot be judged.
    options: { TSAN_OPTIONS: 'ignore_noninstrumented_modules=1:second_deadlock_stack=1' },
    defects: ['race'],
  },
}

const compiler = process.env.CXX ?? 'c++'
const libraryOf = (name) =>
  execFileSync(compiler, [`-print-file-name=${name}`], { encoding: 'utf8' }).trim()

/** It runs NVIDIA's compiler, which ends with SIGSEGV under a sanitizer, and nothing of kvx that is compiled. */
const unfit = 'packages/native/test/kernels.test.ts'

/** Only what differs is copied, so that what was compiled before is used again. */
function copyTo(folder) {
  const sources = filesBelow([
    'package.json',
    'vitest.config.ts',
    'README.md',
    'tsconfig.base.json',
    'tools',
    'examples',
    'docs',
  ])
  const files = [...sources, ...packages.flatMap((path) => filesBelow([path]))].filter(
    (file) => file !== unfit,
  )
  const wanted = new Set(files.map((file) => join(folder, file)))
  for (const path of packages) {
    const compiled = join(root, path, 'dist')
    for (const entry of existsSync(compiled) ? readdirSync(compiled, everything) : []) {
      if (!entry.isFile()) continue
      const file = join(entry.parentPath, entry.name).slice(root.length + 1)
      files.push(file)
      wanted.add(join(folder, file))
    }
  }
  for (const file of files) {
    const [from, to] = [join(root, file), join(folder, file)]
    if (existsSync(to) && readFileSync(from).equals(readFileSync(to))) continue
    mkdirSync(dirname(to), { recursive: true })
    cpSync(from, to)
  }
  for (const entry of readdirSync(join(folder, 'packages'), everything)) {
    const file = join(entry.parentPath, entry.name)
    const ours = !/\/(build|node_modules)(\/|$)/.test(file.slice(folder.length))
    if (ours && entry.isFile() && !wanted.has(file)) rmSync(file)
  }
  linkModules(folder)
}
const everything = { recursive: true, withFileTypes: true }

/** The installed packages, and in place of kvx's the copies. */
function linkModules(folder) {
  const from = join(root, 'node_modules')
  const to = join(folder, 'node_modules')
  rmSync(to, { recursive: true, force: true })
  mkdirSync(join(to, '@kvx'), { recursive: true })
  for (const name of readdirSync(from)) {
    if (name.startsWith('.') && name !== '.bin') continue
    const ours = lstatSync(join(from, name)).isSymbolicLink()
    if (name !== '@kvx' && !ours) symlinkSync(join(from, name), join(to, name))
  }
  for (const name of readdirSync(join(from, '@kvx'))) {
    symlinkSync(join(folder, 'packages', name), join(to, '@kvx', name))
  }
}

/** What the processes wrote since the last call. */
function reportsIn(folder) {
  const files = existsSync(folder) ? readdirSync(folder).sort() : []
  const texts = files.map((file) => readFileSync(join(folder, file), 'utf8'))
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder, { recursive: true })
  return texts
}

/** An addon with one defect of each kind: what it does must be reported. */
function unnoticed({ defects, flags }, { folder, env, reports }) {
  const addon = join(folder, 'defects.node')
  const headers = join(
    dirname(createRequire(import.meta.url).resolve('node-api-headers/package.json')),
    'include',
  )
  const source = join(root, 'tools/sanitize/defects.cc')
  const given = ['-std=c++20', '-shared', '-fPIC', '-g', '-pthread', `-I${headers}`]
  const command = [...given, ...flags.split(' '), source, '-o', addon]
  execFileSync(compiler, command, { stdio: 'inherit' })
  return defects.filter((defect) => {
    const code = `require(${JSON.stringify(addon)})(${JSON.stringify(defect)})`
    spawnSync(process.execPath, ['-e', code], { env, stdio: 'ignore' })
    return reportsIn(reports).length === 0
  })
}

async function test(name, args) {
  const { flags, runtime, options } = sanitizers[name]
  const folder = join(root, 'build', 'sanitize', name)
  const reports = join(folder, 'reports')
  copyTo(folder)
  reportsIn(reports)
  const built = {
    ...process.env,
    // Instead of the packages', whose warnings are not the question here; frames have names and lines.
    CXX: `${compiler} ${flags} -g -fno-omit-frame-pointer`,
    NX_DAEMON: 'false',
  }
  for (const path of ['packages/native', 'packages/shm']) {
    const { ok, output } = await run(
      `${path} with ${flags}`,
      process.execPath,
      [join(folder, 'packages/native/bin/kvx-native.js'), 'build', '.'],
      { cwd: join(folder, path), env: built },
    )
    if (!ok) throw new Error(output)
  }
  const env = { ...built, LD_PRELOAD: `${libraryOf(runtime)} ${libraryOf('libstdc++.so.6')}` }
  for (const [key, value] of Object.entries(options)) {
    env[key] = `${value}:log_path=${join(reports, 'report')}`
  }
  const missed = unnoticed(sanitizers[name], { folder, env, reports })
  if (missed.length > 0) {
    console.log(`FAILED  ${name}: reports nothing of an addon with the defect ${missed.join(', ')}`)
    return false
  }
  const vitest = [join(root, 'node_modules/vitest/vitest.mjs'), 'run']
  const projects = ['--project', 'native', '--project', 'shm']
  const { ok, reason } = await run(name, process.execPath, [...vitest, ...projects, ...args], {
    cwd: folder,
    env,
    stream: true,
  })
  const found = reportsIn(reports)
  for (const report of found) console.log(report)
  if (!ok) console.log(`FAILED  ${name}: tests, ${reason}`)
  if (found.length > 0) console.log(`FAILED  ${name}: ${found.length} reports, which are above`)
  if (ok && found.length === 0) console.log(`ok      ${name}: no report`)
  return ok && found.length === 0
}

const args = process.argv.slice(2)
const only = args.indexOf('--only')
const chosen = only < 0 ? Object.keys(sanitizers) : [args.splice(only, 2)[1]]
const known = Object.keys(sanitizers)
if (!chosen.every((name) => known.includes(name))) {
  console.error(`--only takes ${known.join(', ')}, got ${chosen[0] ?? 'nothing'}`)
  process.exit(2)
}
for (const name of chosen) {
  if (!(await test(name, args))) process.exitCode = 1
}
