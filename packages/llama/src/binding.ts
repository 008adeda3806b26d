/**
 * node-llama-cpp, the binding of llama.cpp. It weighs more than all of kvx, and several times that with its builds for GPUs, which kvx does not
 * use; so it is no dependency, but what lies beside this package in exactly the right version, or else what `installBinding`
 * has put into the cache (ADR 18).
 */
import { spawn } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { readdir, rename, stat, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { delimiter, dirname, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import type * as Binding from 'node-llama-cpp'
import { KvxError } from '@kvx/contract'
import { cacheFolder, inWorkFolder } from '@kvx/vendor'

const require = createRequire(import.meta.url)
const { peerDependencies } = require('../package.json') as {
  peerDependencies: { 'node-llama-cpp': string }
}
/** The one that kvx is written for: it uses parts that are not in the types. */
export const bindingVersion = peerDependencies['node-llama-cpp']

/** llama.cpp for this processor; the builds for GPUs and other systems are optional dependencies of the binding. */
const platformPackage = `@node-llama-cpp/linux-${process.arch === 'arm' ? 'armv7l' : process.arch}`
/** Of what is installed, as measured. */
const installedBytes = 85e6
const deadlineMs = 30 * 60_000
/** A living installation never takes a day. */
const abandonedAfterMs = 24 * 3_600_000
const progressMs = 1_000

let loaded: typeof Binding | undefined

/**
 * The binding, loaded when it is first asked for.
 *
 * @throws KvxError `ERR_KVX_MODEL` when it is not installed
 */
export async function llamaCpp(): Promise<typeof Binding> {
  if (loaded === undefined) {
    const entry = findBinding()
    if (entry === undefined) {
      throw new KvxError(
        'ERR_KVX_MODEL',
        `llama.cpp is not installed: kvx up and resolveModel() of @kvx/llama fetch it when they first need it, and this adds it to a project: ${command}`,
        { phase: 'open' },
      )
    }
    loaded = (await import(pathToFileURL(entry).href)) as typeof Binding
  }
  return loaded
}

const packages = [`node-llama-cpp@${bindingVersion}`, `${platformPackage}@${bindingVersion}`]
const command = `npm install --omit=optional ${packages.join(' ')}`

const bindingFolder = () =>
  join(cacheFolder(), 'llama.cpp', `${bindingVersion}-${process.platform}-${process.arch}`)

/** The file to import, or undefined when there is none. */
function findBinding(): string | undefined {
  return beside() ?? entryIn(join(bindingFolder(), 'node_modules', 'node-llama-cpp'))
}

/** As Node resolves it for this package, in the version that is wanted. */
function beside(): string | undefined {
  try {
    return entryIn(dirname(dirname(require.resolve('node-llama-cpp'))))
  } catch {
    return undefined
  }
}

function entryIn(folder: string): string | undefined {
  const manifest = join(folder, 'package.json')
  if (!existsSync(manifest)) return undefined
  const { version } = JSON.parse(readFileSync(manifest, 'utf8')) as { version?: string }
  return version === bindingVersion ? join(folder, 'dist', 'index.js') : undefined
}

export interface InstallOptions {
  onProgress?:
    ((progress: { readonly bytes: number; readonly totalBytes: number }) => void) | undefined
  signal?: AbortSignal | undefined
}

/**
 * Installs the binding into the cache, by npm, without scripts and without builds for GPUs, unless it is there. Installations that run at
 * the same time do not disturb each other, and one that fails leaves nothing behind.
 *
 * @returns whether it had to be installed
 * @throws KvxError `ERR_KVX_MODEL` (no npm, no network, cache not writable), `ERR_KVX_ABORTED`
 */
export async function installBinding({
  onProgress,
  signal,
}: InstallOptions = {}): Promise<boolean> {
  if (findBinding() !== undefined) return false
  const folder = bindingFolder()
  try {
    await inWorkFolder(dirname(folder), abandonedAfterMs, async (work) => {
      await writeFile(join(work, 'package.json'), '{ "private": true }\n')
      let installing = true
      const tell = (bytes: number) => {
        if (!installing) return
        onProgress?.({ bytes: Math.min(bytes, installedBytes), totalBytes: installedBytes })
      }
      tell(0)
      const timer = setInterval(() => void sizeOf(work).then(tell), progressMs)
      try {
        await npmInstall(work, signal)
      } finally {
        installing = false
        clearInterval(timer)
      }
      await rename(work, folder).catch((cause: unknown) => {
        // Another process was faster.
        if (findBinding() === undefined) throw cause
      })
    })
  } catch (cause) {
    if (signal?.aborted) {
      throw new KvxError('ERR_KVX_ABORTED', 'The installation of llama.cpp was aborted.', { cause })
    }
    const reason = cause instanceof Error ? cause.message : String(cause)
    throw new KvxError(
      'ERR_KVX_MODEL',
      `llama.cpp (${packages.join(', ')}) could not be installed into ${folder}: ${reason}. Another folder can be chosen with KVX_CACHE; this adds it to a project instead: ${command}`,
      { cause, phase: 'open' },
    )
  }
  return true
}

/** @throws Error with the last line that npm wrote */
function npmInstall(folder: string, signal: AbortSignal | undefined): Promise<void> {
  const args = ['install', '--omit=optional', '--ignore-scripts', '--no-audit', '--no-fund']
  return new Promise((resolve, reject) => {
    // npm comes with Node, but may not be on the PATH of whoever names Node by its path.
    const path = `${process.env.PATH ?? ''}${delimiter}${dirname(process.execPath)}`
    const npm = spawn('npm', [...args, '--no-update-notifier', '--loglevel=error', ...packages], {
      cwd: folder,
      env: { ...process.env, PATH: path, NODE_OPTIONS: '' },
      stdio: ['ignore', 'ignore', 'pipe'],
      timeout: deadlineMs,
      signal,
    })
    let output = ''
    npm.stderr.setEncoding('utf8').on('data', (text: string) => {
      output = (output + text).slice(-8_000)
    })
    npm.once('error', (cause: NodeJS.ErrnoException) => {
      reject(cause.code === 'ENOENT' ? new Error('npm was not found', { cause }) : cause)
    })
    npm.once('close', (code, killedBy) => {
      if (code === 0) resolve()
      else
        reject(
          new Error(
            reasonIn(output) ?? `npm ended with ${killedBy ?? `exit code ${String(code)}`}`,
          ),
        )
    })
  })
}

/** What npm says first, without its prefix, and not where its log is. */
function reasonIn(output: string): string | undefined {
  return output
    .split('\n')
    .map((line) => line.replace(/^npm (error|ERR!) ?/, '').trim())
    .find((line) => line !== '' && !line.startsWith('code ') && !line.startsWith('errno '))
}

async function sizeOf(folder: string): Promise<number> {
  // What npm moves meanwhile is counted the next time.
  const entries = await readdir(folder, { recursive: true, withFileTypes: true }).catch(() => [])
  const sizes = entries
    .filter((entry) => entry.isFile())
    .map((entry) =>
      stat(join(entry.parentPath, entry.name)).then(
        ({ size }) => size,
        () => 0,
      ),
    )
  return (await Promise.all(sizes)).reduce((sum, size) => sum + size, 0)
}
