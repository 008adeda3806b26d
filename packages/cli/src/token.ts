/** Where the deployment's secret comes from. */
import { randomBytes } from 'node:crypto'
import type { Stats } from 'node:fs'
import { chmod, link, mkdir, open, rm, stat, writeFile, type FileHandle } from 'node:fs/promises'
import { join } from 'node:path'
import { systemReason } from '@kvx/contract'
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
  const { file, host, environment } = sources
  if (file !== undefined) return readToken(file)
  if (sources.variable !== undefined) {
    const token = sources.variable.trim()
    if (token === '') throw new UsageError('KVX_TOKEN is set but empty.')
    return checked(token, 'KVX_TOKEN')
  }
  if (!isLoopback(host)) {
    throw new UsageError(
      `A worker on ${host} can be reached from other machines and needs a token: set KVX_TOKEN or give --token-file.`,
    )
  }
  return sharedToken(environment)
}

export function newToken(): string {
  return randomBytes(32).toString('hex')
}

export function isLoopback(host: string): boolean {
  return (
    host === 'localhost' || host === '::1' || host === '[::1]' || /^127(\.\d{1,3}){3}$/.test(host)
  )
}

/** The rule of `@kvx/core` for all tokens, said of where this one came from. */
async function checked(token: string, source: string): Promise<string> {
  // Loaded late: it brings libzmq, which a misspelt flag need not wait for.
  const { checkToken } = await import('@kvx/core')
  try {
    return checkToken(token)
  } catch (cause) {
    throw new UsageError(`${source}: ${(cause as Error).message}`, { cause })
  }
}

/** Whatever the file is, no more of it is read. */
const maxTokenBytes = 65_536

/** Looked at and read through one handle, so that what was looked at is what is read. */
async function readToken(path: string): Promise<string> {
  let file: FileHandle | undefined
  let text: string
  try {
    file = await open(path)
    refuseForeign(path, await file.stat())
    const { buffer, bytesRead } = await file.read(Buffer.alloc(maxTokenBytes))
    if (bytesRead === maxTokenBytes)
      throw new UsageError(`The token file ${path} holds no token: it is too large.`)
    text = buffer.toString('utf8', 0, bytesRead)
  } catch (cause) {
    if (cause instanceof UsageError) throw cause
    throw new UsageError(`The token file ${path} cannot be read: ${systemReason(cause)}.`, {
      cause,
    })
  } finally {
    await file?.close()
  }
  const token = text.trim()
  if (token === '') throw new UsageError(`The token file ${path} is empty.`)
  return checked(token, `The token file ${path}`)
}

/** Who else could read the secret, or has put it there? */
function refuseForeign(path: string, { mode, uid }: Stats): void {
  const user = process.getuid?.()
  if (uid !== user) {
    throw new UsageError(
      `The token file ${path} belongs to another user (uid ${String(uid)}; this is uid ${String(user)}), who can read and change it: copy it to a file of your own with mode 600.`,
    )
  }
  if ((mode & 0o077) !== 0) {
    throw new UsageError(
      `The token file ${path} can be read or changed by other users: run chmod 600 on it. If one of them may have read it, make a new token.`,
    )
  }
}

async function sharedToken(environment: TokenSources['environment']): Promise<string> {
  const config = await configFolder(environment)
  if (config === undefined) {
    throw new UsageError(
      'This user has no home folder in which workers could share a token: set KVX_TOKEN or give --token-file.',
    )
  }
  const folder = join(config, 'kvx')
  const file = join(folder, 'token')
  try {
    if (!(await exists(file))) await createOnce(folder, file)
  } catch (cause) {
    throw new UsageError(
      `The token that workers of this user share cannot be kept in ${file}: ${systemReason(cause)}. Set KVX_TOKEN or give --token-file.`,
      { cause },
    )
  }
  return readToken(file)
}

async function configFolder(environment: TokenSources['environment']): Promise<string | undefined> {
  // An empty variable counts as unset.
  if (environment.XDG_CONFIG_HOME) return environment.XDG_CONFIG_HOME
  const { homeFolder } = await import('@kvx/vendor')
  const home = homeFolder(environment)
  return home === undefined ? undefined : join(home, '.config')
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
