/** Python clients, installed once from their package index into the cache of kvx, and run from there. */
import { spawn, type ChildProcess } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { cacheFolder } from '@kvx/vendor'

const here = (name: string) => fileURLToPath(new URL(name, import.meta.url))

const requirements = here('requirements.txt')
/** Without what it depends on: that is gigabytes of CUDA, and its benchmark needs none of it. */
const sglang = 'sglang==0.5.23'
const pip = ['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', '--no-input']

export interface Clients {
  /** Of everything in requirements.txt. */
  readonly packages: string
  /** SGLang's wheel, unpacked. */
  readonly sglang: string
}

const running = new Set<ChildProcess>()
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL')
})

let installed: Promise<Clients> | undefined

/** Rejects with what is missing and how to get it. */
export function pythonClients(): Promise<Clients> {
  installed ??= install()
  return installed
}

async function install(): Promise<Clients> {
  const root = join(cacheFolder(), 'clients')
  mkdirSync(root, { recursive: true })
  const packages = await installOnce(root, 'packages', ['--requirement', requirements])
  // Of its wheels one is as good as another: only files that are Python are used.
  const wheel = ['--python-version', '3.11', '--platform', 'manylinux_2_34_x86_64']
  const whole = await installOnce(root, 'sglang', [
    ...['--no-deps', '--only-binary=:all:', '--implementation', 'cp', ...wheel, sglang],
  ])
  return { packages, sglang: whole }
}

/** The folder into which pip has installed this, once and whole. */
async function installOnce(root: string, name: string, what: readonly string[]): Promise<string> {
  const version = await output('python3', ['-c', 'import sys; print(sys.version_info[:2])'])
  // By what is installed, wherever this checkout lies.
  const list = what.map((one) => (one === requirements ? readFileSync(one, 'utf8') : one))
  const hash = createHash('sha256').update(JSON.stringify([list, version]))
  const folder = join(root, `${name}-${hash.digest('hex').slice(0, 16)}`)
  if (existsSync(folder)) return folder
  process.stderr.write(`installing the Python clients of the tests: ${name}\n`)
  const partial = mkdtempSync(join(root, 'partial-'))
  try {
    await output('python3', [...pip, '--target', partial, ...what])
    // Another process may have been quicker, with the same.
    if (!existsSync(folder)) renameSync(partial, folder)
    return folder
  } finally {
    rmSync(partial, { recursive: true, force: true })
  }
}

async function output(command: string, args: readonly string[]): Promise<string> {
  const env = { ...process.env, PIP_BREAK_SYSTEM_PACKAGES: '1', PIP_ROOT_USER_ACTION: 'ignore' }
  const child = spawn(command, args, { env, stdio: ['ignore', 'pipe', 'pipe'] })
  let text = ''
  const keep = (data: Buffer) => (text += data.toString())
  child.stdout.on('data', keep)
  child.stderr.on('data', keep)
  const needs =
    'The tests with real clients need Python 3.11 or newer with pip, and its package index: apt-get install python3 python3-pip.'
  const [code] = (await once(child, 'close').catch((cause: unknown) => {
    throw new Error(`${needs} ${command} could not be started.`, { cause })
  })) as [number | null]
  if (code === 0) return text
  throw new Error(`${needs} ${command} ${args.slice(0, 3).join(' ')} failed:\n${text.slice(-2000)}`)
}

/** A Python program with these packages; it ends with this process at the latest. */
export async function python(args: readonly string[]): Promise<ChildProcess> {
  const { packages } = await pythonClients()
  const child = spawn('python3', args, {
    // Nothing is looked for at a hub: that would take until its time is up.
    env: { ...process.env, PYTHONPATH: packages, HF_HUB_OFFLINE: '1', NO_COLOR: '1' },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  running.add(child)
  child.once('close', () => running.delete(child))
  return child
}

/** What a Python program wrote to stdout, once it has ended well; else an error with all that it wrote. */
export async function pythonOutput(args: readonly string[]): Promise<string> {
  const child = await python(args)
  let stdout = ''
  let stderr = ''
  child.stdout?.on('data', (data: Buffer) => (stdout += data.toString()))
  child.stderr?.on('data', (data: Buffer) => (stderr += data.toString()))
  const [code] = (await once(child, 'close')) as [number | null]
  if (code === 0) return stdout
  throw new Error(`python3 ${args.join(' ')} ended with ${String(code)}:\n${stdout}\n${stderr}`)
}

/** A program of this folder. */
export const program = here
