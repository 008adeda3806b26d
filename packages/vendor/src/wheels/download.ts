import { spawn } from 'node:child_process'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { KvxError } from '@kvx/core/backend'
import type { WheelSpec } from './spec.ts'

const deadlineMs = 15 * 60_000

/**
 * Downloads the wheel with the user's pip, so that their index, proxy and certificates apply.
 *
 * @returns the path of the file
 * @throws KvxError `ERR_KVX_BACKEND_UNAVAILABLE` without python3, pip or network, or when the index
 *   has no such file
 */
export async function download(
  spec: WheelSpec,
  folder: string,
  signal: AbortSignal | undefined,
): Promise<string> {
  const result = await run(
    [
      ...[
        '-m',
        'pip',
        'download',
        '--no-deps',
        '--only-binary=:all:',
        '--disable-pip-version-check',
      ],
      ...['--no-input', '--progress-bar', 'off', '--retries', '2', '--dest', folder],
      ...spec.pipArguments,
      `${spec.project}==${spec.version}`,
    ],
    signal,
  )
  if (result.code !== 0) throw explain(spec, result.output)
  const wheel = (await readdir(folder)).find((name) => name.endsWith('.whl'))
  if (wheel === undefined) throw explain(spec, result.output)
  return join(folder, wheel)
}

function run(
  parameters: string[],
  signal: AbortSignal | undefined,
): Promise<{ code: number; output: string }> {
  const deadline = AbortSignal.timeout(deadlineMs)
  return new Promise((resolve, reject) => {
    const child = spawn('python3', parameters, {
      stdio: ['ignore', 'pipe', 'pipe'],
      signal: signal ? AbortSignal.any([signal, deadline]) : deadline,
      killSignal: 'SIGKILL',
    })
    let output = ''
    const collect = (chunk: Buffer): void => {
      output = (output + chunk.toString()).slice(-20_000)
    }
    child.stdout.on('data', collect)
    child.stderr.on('data', collect)
    let failure: NodeJS.ErrnoException | undefined
    child.once('error', (cause: NodeJS.ErrnoException) => {
      failure = cause
      if (child.pid === undefined) reject(notStarted(cause))
    })
    // Only once the child is gone may its folder be removed.
    child.once('close', (code) => {
      if (signal?.aborted) reject(aborted(failure))
      else if (deadline.aborted)
        reject(unavailable(`pip did not end within ${String(deadlineMs / 60_000)} minutes.`))
      else resolve({ code: code ?? 1, output })
    })
  })
}

function notStarted(cause: NodeJS.ErrnoException): KvxError {
  return cause.code === 'ENOENT'
    ? unavailable('There is no python3 on the PATH.', cause)
    : unavailable(`python3 could not be started: ${cause.message}.`, cause)
}

function explain(spec: WheelSpec, output: string): KvxError {
  const what = `${spec.project} ${spec.version}`
  if (output.includes('No module named pip')) {
    return unavailable(
      `python3 has no pip, which downloads ${what} (Debian: apt install python3-pip).`,
    )
  }
  const network =
    /Failed to establish a new connection|Name or service not known|Temporary failure in name resolution|Connection (refused|reset|timed out)|Read timed out|ConnectTimeout|ProxyError|Network is unreachable|SSLError/.exec(
      output,
    )
  if (network)
    return unavailable(`The package index could not be reached for ${what}: ${network[0]}.`)
  if (/No matching distribution|Could not find a version/.test(output)) {
    return unavailable(
      `The package index that pip uses has no ${what} for this platform (${spec.pipArguments.join(' ')}).`,
    )
  }
  const last = output.trim().split('\n').slice(-3).join(' ')
  return unavailable(`pip could not download ${what}: ${last || 'no reason given'}.`)
}

export function aborted(cause?: unknown): KvxError {
  return new KvxError('ERR_KVX_ABORTED', 'The installation was aborted. Nothing was changed.', {
    cause,
    phase: 'open',
  })
}

const remedy = 'A wheel that was downloaded elsewhere can be installed with --wheel FILE.'

function unavailable(message: string, cause?: unknown): KvxError {
  return new KvxError('ERR_KVX_BACKEND_UNAVAILABLE', `${message} ${remedy}`, {
    cause,
    phase: 'open',
  })
}
