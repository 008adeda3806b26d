/** Installations of kvx with another control plane: an earlier one, or one of a version that nobody else speaks. */
import { execFileSync } from 'node:child_process'
import { cp, mkdir, mkdtemp, readFile, rename, symlink, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'

/**
 * The earlier build: `node tools/pack-earlier.mjs 69c13ad packages/proofs/test/skew/69c13ad.tgz` has made it. Nothing is released yet; once
 * something is, this is the last release, from the archives of @kvx/core and @kvx/contract as published.
 */
const earlier = '69c13ad.tgz'

const require = createRequire(import.meta.url)
export const repository = join(import.meta.dirname, '../../../..')

const folderOf = (name: string) => dirname(require.resolve(`@kvx/${name}/package.json`))

async function copy(name: string, scope: string): Promise<void> {
  for (const part of ['package.json', 'dist'])
    await cp(join(folderOf(name), part), join(scope, name, part), { recursive: true })
}

/**
 * A folder with its own `node_modules`: this build's synthetic host, over another control plane. Engines are those of this build, beside
 * which the addons are.
 */
async function install(addControlPlane: (scope: string) => Promise<void>): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'kvx-build-'))
  const modules = join(folder, 'node_modules')
  const scope = join(modules, '@kvx')
  await mkdir(scope, { recursive: true })
  await addControlPlane(scope)
  // Copied, for Node looks for what a module imports where the module really lies.
  await copy('bench', scope)
  for (const name of ['contract', 'llama', 'native', 'shm'])
    await symlink(folderOf(name), join(scope, name))
  const others = ['@observablehq', 'cbor-x', 'eventsource-parser', 'linkedom', 'valibot', 'zeromq']
  for (const name of others)
    await symlink(join(repository, 'node_modules', name), join(modules, name))
  return folder
}

export function installEarlier(): Promise<string> {
  return install(async (scope) => {
    execFileSync('tar', ['-xzf', join(import.meta.dirname, earlier), '-C', dirname(scope)])
    // Its own, beside that of the host and of the engines.
    const own = join(scope, 'core/node_modules/@kvx')
    await mkdir(own, { recursive: true })
    await rename(join(scope, 'contract'), join(own, 'contract'))
  })
}

/** This build, as if it spoke another version of the protocol, and no other. */
export function installVersion(version: number): Promise<string> {
  return install(async (scope) => {
    await copy('core', scope)
    const file = join(scope, 'core/dist/protocol/messages.js')
    const source = await readFile(file, 'utf8')
    const changed = source.replace(
      /^export const protocolVersion = \d+/m,
      `export const protocolVersion = ${String(version)}`,
    )
    if (changed === source) throw new Error(`${file} does not say which version it speaks`)
    await writeFile(file, changed)
  })
}
