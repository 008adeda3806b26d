import { execFileSync, spawnSync } from 'node:child_process'
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { loadAddon } from '@kvx/native'
import { afterAll, beforeEach, expect, test } from 'vitest'

const root = mkdtempSync(join(tmpdir(), 'kvx-load-'))
const native = fileURLToPath(new URL('..', import.meta.url))
const real = readFileSync(join(native, 'build', 'Release', 'kvx_native.node'))

let project: string

/** A package with a copy of the sources of @kvx/native's addon, and nothing compiled. */
beforeEach(() => {
  project = mkdtempSync(join(root, 'project-'))
  writeFileSync(join(project, 'package.json'), '{ "name": "@test/engine" }')
  cpSync(join(native, 'native'), join(project, 'native'), { recursive: true })
  mkdirSync(join(project, 'node_modules', '@kvx'), { recursive: true })
  symlinkSync(native, join(project, 'node_modules', '@kvx', 'native'))
})

afterAll(() => {
  rmSync(root, { recursive: true, force: true })
})

function put(content: string | Buffer, name = `linux-${process.arch}/engine.node`): string {
  const file = join(project, 'prebuilds', name)
  mkdirSync(join(file, '..'), { recursive: true })
  writeFileSync(file, content)
  return file
}

/** A shared library of the compiler's. */
function compile(source: string): Buffer {
  const [from, to] = [join(project, 'library.c'), join(project, 'library.so')]
  writeFileSync(from, source)
  execFileSync('cc', ['-shared', '-fPIC', '-o', to, from])
  return readFileSync(to)
}

function refusal(): string {
  try {
    loadAddon(project, '@test/engine')
  } catch (error) {
    expect(error).toMatchObject({ name: 'KvxError', code: 'ERR_KVX_BACKEND_UNAVAILABLE' })
    return (error as Error).message
  }
  return 'it was loaded'
}

const remedy =
  'Compile it on this machine, which takes a C++20 compiler, with: npx @kvx/native build @test/engine'

test('an addon that was compiled from the sources beside it is loaded', () => {
  put(real)
  expect(loadAddon(project, '@test/engine')).toHaveProperty('allocate')
})

test('a package without any compiled file says how to compile it', () => {
  expect(refusal()).toBe(
    `The native addon of @test/engine cannot be loaded: ${project} has no compiled file. ${remedy}`,
  )
})

test('a package with files for other platforms names them and this one', () => {
  put(real, 'linux-s390x/engine.glibc.node')
  put(real, 'darwin-arm64/engine.node')
  expect(refusal()).toBe(
    `The native addon of @test/engine cannot be loaded: ${project}/prebuilds has none for ` +
      `linux-${process.arch} (glibc), only darwin-arm64/engine.node, linux-s390x/engine.glibc.node. ${remedy}`,
  )
})

/** As a file of another machine has it, at its place in the header. */
function forMachine(number: number): Buffer {
  const other = Buffer.from(real)
  other.writeUInt16LE(number, 18)
  return other
}

test.each([
  ['empty', Buffer.alloc(0), 'it is empty'],
  ['text', 'version https://git-lfs.github.com/spec/v1\n', 'it is no ELF file'],
  ['cut in its header', real.subarray(0, 40), 'it is cut short'],
  ['cut in the middle', real.subarray(0, real.length >> 1), 'it is cut short'],
  ['without its last byte', real.subarray(0, -1), 'it is cut short'],
  ['for s390x', forMachine(22), `it is for s390x, and this Node is for ${process.arch}`],
  ['for a strange machine', forMachine(999), 'it is for machine 999, and this Node is for'],
])('a file that is %s is refused in one sentence', (_, content, why) => {
  const file = put(content)
  const message = refusal()
  expect(message).toContain(`cannot be loaded: ${file} is not usable, ${why}`)
  expect(message).toContain(remedy)
  expect(message).not.toContain('\n')
})

test('an addon that was compiled from other sources is refused before it is loaded', () => {
  put(real)
  writeFileSync(join(project, 'native', 'memory.h'), '// other\n', { flag: 'a' })
  expect(refusal()).toContain('is not usable, it was compiled from other sources than those in')
})

test('a library that tells nothing of its sources is refused where the package has them', () => {
  put(compile('int one(void) { return 1; }'))
  expect(refusal()).toContain('is not usable, it was compiled from other sources')
})

test('what the loader of the system says of a file is told in one sentence', () => {
  rmSync(join(project, 'native'), { recursive: true })
  put(compile('extern int nobodyHasIt; int one(void) { return nobodyHasIt; }'))
  expect(refusal()).toMatch(/undefined symbol: nobodyHasIt\. Compile it on this machine/)
})

test('a library that is no addon of Node is refused', () => {
  rmSync(join(project, 'native'), { recursive: true })
  put(compile('int one(void) { return 1; }'))
  expect(refusal()).toMatch(/Module did not self-register/)
})

const command = join(native, 'bin', 'kvx-native.js')
const build = (args: readonly string[], env: NodeJS.ProcessEnv = {}) =>
  spawnSync(process.execPath, [command, 'build', ...args], {
    cwd: project,
    env: { ...process.env, NO_COLOR: '1', ...env },
    encoding: 'utf8',
  })

/** In place of the real sources, which take minutes to compile. */
function oneFunction(value: number): void {
  const folder = join(project, 'native')
  for (const file of readdirSync(folder)) rmSync(join(folder, file), { recursive: true })
  writeFileSync(join(folder, 'addon.json'), '{ "name": "one" }')
  writeFileSync(
    join(folder, 'addon.cc'),
    `#include <node_api.h>
NAPI_MODULE_INIT() {
  napi_value value;
  napi_create_int32(env, ${value}, &value);
  return value;
}
`,
  )
}

test('the command compiles an addon from its sources, and again after a change', () => {
  oneFunction(1)
  expect(build(['.'])).toMatchObject({ status: 0, stdout: `${project}/build/Release/one.node\n` })
  expect(loadAddon(project, '@test/engine')).toBe(1)
  oneFunction(2)
  expect(refusal()).toContain('it was compiled from other sources')
  expect(build(['.']).status).toBe(0)
  // Node keeps what a path has given; another process reads the file anew.
  const load = `import { loadAddon } from '@kvx/native'; console.log(loadAddon('.', '@test/engine'))`
  const fresh = spawnSync(process.execPath, ['--input-type=module', '-e', load], { cwd: project })
  expect(String(fresh.stdout)).toBe('2\n')
})

test('the command finds a package that the project has only through another', () => {
  const [engine, user] = [join(project, 'engine'), join(project, 'user')]
  mkdirSync(join(engine, 'node_modules', '@kvx'), { recursive: true })
  mkdirSync(join(user, 'node_modules'), { recursive: true })
  writeFileSync(join(user, 'package.json'), '{ "dependencies": { "kvx": "1" } }')
  mkdirSync(join(user, 'node_modules', 'kvx'))
  writeFileSync(
    join(user, 'node_modules', 'kvx', 'package.json'),
    '{ "dependencies": { "@kvx/hidden": "1" } }',
  )
  mkdirSync(join(user, 'node_modules', 'kvx', 'node_modules', '@kvx'), { recursive: true })
  symlinkSync(engine, join(user, 'node_modules', 'kvx', 'node_modules', '@kvx', 'hidden'))
  writeFileSync(join(engine, 'package.json'), '{ "name": "@kvx/hidden" }')
  symlinkSync(native, join(engine, 'node_modules', '@kvx', 'native'))
  oneFunction(1)
  cpSync(join(project, 'native'), join(engine, 'native'), { recursive: true })
  const { status, stdout } = spawnSync(process.execPath, [command, 'build', '@kvx/hidden'], {
    cwd: user,
    encoding: 'utf8',
  })
  expect(status).toBe(0)
  expect(stdout).toBe(`${engine}/build/Release/one.node\n`)
})

test.each([
  [['@kvx/nobody'], {}, /@kvx\/nobody is not installed in .*: run this in the project/],
  [['./none'], {}, /none is no package: it has no package\.json/],
  [['.'], { CXX: '/nowhere/c++' }, /The compiler \/nowhere\/c\+\+ does not run on this machine/],
])('the command refuses %j with %j in one sentence', (args, env, says) => {
  oneFunction(1)
  const { status, stderr } = build(args, env)
  expect(status).toBe(1)
  expect(stderr).toMatch(says)
  expect(stderr.trim().split('\n')).toHaveLength(1)
})

test('the command passes on what the compiler says of a mistake', () => {
  oneFunction(1)
  writeFileSync(join(project, 'native', 'addon.cc'), 'int x = "text";\n')
  const { status, stderr } = build(['.'])
  expect(status).toBe(1)
  expect(stderr).toContain('addon.cc')
  expect(stderr).toContain('kvx-native: the compiler ended with exit code 1; what it says is above')
})
