import { spawn } from 'node:child_process'
import { mkdir, readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { KvxError } from '@kvx/contract'

/** A wheel at the package index that the user's pip is set up for. */
export interface PublishedWheel {
  /** Project name at the package index: `amd-mori`. */
  readonly project: string
  readonly version: string
  /** What selects the file among those of the version: `['--python-version', '3.10', '--platform', …]`. */
  readonly pipArguments?: readonly string[] | undefined
}

export interface DownloadOptions {
  /** pip is ended after this time. */
  readonly deadlineMs: number
  /** Makes the error of a reason: which code it has and what else can be done are the caller's to say. */
  readonly refuse: (reason: string, cause?: unknown) => KvxError
  readonly signal?: AbortSignal | undefined
  /** Told several times a second how many bytes there are. */
  readonly onBytes?: ((bytes: number) => void) | undefined
}

/**
 * Downloads a wheel below `folder`, which must be empty, with the user's pip, so that their index, proxy and
 * certificates apply. Everything pip writes meanwhile lies below `folder` too.
 *
 * @returns the path of the file
 * @throws what `refuse` makes, without python3, pip or network, or when the index has no such file; the
 *   signal's AbortError when it was aborted
 */
export async function downloadWheel(
  wheel: PublishedWheel,
  folder: string,
  options: DownloadOptions,
): Promise<string> {
  const temporary = join(folder, 'tmp')
  const target = join(folder, 'wheel')
  await mkdir(temporary)
  await mkdir(target)
  const { onBytes } = options
  // pip tells its progress to terminals only; but it downloads below TMPDIR, where the file is seen growing.
  const watch =
    onBytes &&
    setInterval(() => {
      // A file may go away while it is looked at; there is a next time.
      void largestFileBelow(folder).then(onBytes, () => undefined)
    }, 250)
  try {
    const parameters = [
      ...['-m', 'pip', 'download', '--no-deps', '--only-binary=:all:', '--no-input'],
      ...['--disable-pip-version-check', '--progress-bar', 'off', '--timeout', '30'],
      ...['--retries', '2', '--dest', target, ...(wheel.pipArguments ?? [])],
      `${wheel.project}==${wheel.version}`,
    ]
    const { code, output } = await run(parameters, temporary, wheel, options)
    const file =
      code === 0 ? (await readdir(target)).find((name) => name.endsWith('.whl')) : undefined
    if (file === undefined) throw options.refuse(reasonOf(wheel, output))
    return join(target, file)
  } finally {
    clearInterval(watch)
  }
}

function run(
  parameters: readonly string[],
  temporary: string,
  wheel: PublishedWheel,
  { deadlineMs, refuse, signal }: DownloadOptions,
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
    let failure: NodeJS.ErrnoException | undefined
    child.once('error', (cause: NodeJS.ErrnoException) => {
      failure = cause
      if (child.pid !== undefined) return
      const reason =
        cause.code === 'ENOENT'
          ? `There is no python3 on the PATH, whose pip downloads ${nameOf(wheel)} (Debian: apt install python3-pip).`
          : `python3 could not be started: ${cause.message}.`
      reject(refuse(reason, cause))
    })
    // Only once the child is gone may its folder be removed.
    child.once('close', (code) => {
      if (signal?.aborted) reject(failure ?? new Error('aborted'))
      else if (deadline.aborted)
        reject(refuse(`pip did not end within ${String(deadlineMs / 60_000)} minutes.`))
      else resolve({ code: code ?? 1, output })
    })
  })
}

function nameOf({ project, version }: PublishedWheel): string {
  return `${project} ${version}`
}

const unreachable =
  /Failed to establish a new connection|Name or service not known|Temporary failure in name resolution|Connection (?:refused|reset|timed out)|Read timed out|ConnectTimeout|ProxyError|Network is unreachable|SSLError/

/** Why there is no wheel, from what pip printed. */
function reasonOf(wheel: PublishedWheel, output: string): string {
  const what = nameOf(wheel)
  if (output.includes('No module named pip')) {
    return `python3 has no pip, which downloads ${what} (Debian: apt install python3-pip).`
  }
  const network = unreachable.exec(output)
  if (network) return `The package index could not be reached for ${what}: ${network[0]}.`
  if (/No matching distribution|Could not find a version/.test(output)) {
    const platform = wheel.pipArguments?.join(' ')
    const where = platform ? ` for this platform (${platform})` : ''
    return `The package index that pip uses has no ${what}${where}.`
  }
  const last = output.trim().split('\n').slice(-3).join(' ')
  return `pip could not download ${what}: ${last || 'it gave no reason'}.`
}

/** The largest, because pip keeps up to three copies of what it downloads. */
async function largestFileBelow(folder: string): Promise<number> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true })
  const sizes = entries
    .filter((entry) => entry.isFile())
    .map(async (entry) => (await stat(join(entry.parentPath, entry.name))).size)
  return Math.max(0, ...(await Promise.all(sizes)))
}
