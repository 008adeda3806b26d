/** Where the deployment's secret comes from. */
import { randomBytes } from 'node:crypto'
import { chmod, link, mkdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { UsageError } from './usage.ts'

export interface TokenSources {
  /** `--token-file` */
  readonly file: string | undefined
  /** `KVX_TOKEN` */
  readonly variable: string | undefined
  /** The address that is listened on. */
  readonly host: string
  readonly environment: Readonly<Record<string, string | undefined>>
}

/**
 * The token of a worker: file, else variable, else, on loopback only, one that all workers of this
 * user share.
 * @throws UsageError
 */
export async function resolveToken(sources: TokenSources): Promise<string> {
  if (sources.file !== undefined) return readToken(sources.file)
  if (sources.variable !== undefined) {
    const token = sources.variable.trim()
    if (token === '') throw new UsageError('KVX_TOKEN is set but empty.')
    return token
  }
  if (!isLoopback(sources.host)) {
    throw new UsageError(
      `A worker on ${sources.host} can be reached from other machines and needs a token: set KVX_TOKEN or give --token-file.`,
    )
  }
  return sharedToken(sources.environment)
}

export function newToken(): string {
  return randomBytes(32).toString('hex')
}

export function isLoopback(host: string): boolean {
  return (
    host === 'localhost' || host === '::1' || host === '[::1]' || /^127(\.\d{1,3}){3}$/.test(host)
  )
}

async function readToken(file: string): Promise<string> {
  let text: string
  try {
    text = await readFile(file, 'utf8')
  } catch (cause) {
    throw new UsageError(`The token file ${file} cannot be read: ${(cause as Error).message}.`, {
      cause,
    })
  }
  const token = text.trim()
  if (token === '') throw new UsageError(`The token file ${file} is empty.`)
  return token
}

async function sharedToken(environment: TokenSources['environment']): Promise<string> {
  const folder = join(environment.XDG_CONFIG_HOME ?? join(homedir(), '.config'), 'kvx')
  const file = join(folder, 'token')
  if (!(await exists(file))) await createOnce(folder, file)
  const { mode } = await stat(file)
  if ((mode & 0o077) !== 0) {
    throw new UsageError(
      `The token file ${file} can be read by other users: run chmod 600 on it, or delete it to have a new one made.`,
    )
  }
  return readToken(file)
}

/** Two workers may start at once: the file appears whole, and only the first one's stays. */
async function createOnce(folder: string, file: string): Promise<void> {
  await mkdir(folder, { recursive: true, mode: 0o700 })
  const draft = join(folder, `.token-${randomBytes(6).toString('hex')}`)
  await writeFile(draft, `${newToken()}\n`, { mode: 0o600, flag: 'wx' })
  try {
    await chmod(draft, 0o600)
    await link(draft, file)
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'EEXIST') throw cause
  } finally {
    await rm(draft, { force: true })
  }
}

const exists = (file: string) =>
  stat(file).then(
    () => true,
    () => false,
  )
