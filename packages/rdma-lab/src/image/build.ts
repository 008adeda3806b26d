/** The guest's kernel and its first file system, made once and kept in the cache of kvx. */
import { execFile, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, readdir, readFile, realpath, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { cacheFolder, inWorkFolder, unavailable } from '@kvx/vendor'
import { programPath } from '../needs.ts'
import { cpio, fileMode, folderMode, foldersOf, programMode, type Entry } from './cpio.ts'
import { compressedKernel, withNeeds } from './kernel.ts'

export interface Image {
  /** The kernel unpacked, an ELF file. */
  readonly kernel: string
  /** An archive with busybox and the modules that every guest loads. */
  readonly files: string
  /** For example `6.1.0-56-amd64`. */
  readonly release: string
  /** The folder of all modules of that kernel that may be wanted, to be mounted in the guest. */
  readonly modules: string
}

/** Every guest loads these. rxe asks for crc32 by its name, which modprobe would not know. */
const always = [
  ...['virtio_pci', 'virtio_console', '9pnet_virtio', '9p', 'overlay', 'virtio_net', 'dummy'],
  ...['crc32c_generic', 'crc32_generic', 'rdma_ucm', 'rdma_rxe'],
]
/** For the link between two guests. */
const forLink = ['sch_netem', 'sch_ingress', 'cls_matchall', 'act_gact']

/** Which of the kernel's 400 MB are kept. */
const kept = [
  ...['crypto', 'fs', 'lib', 'net', 'drivers/virtio', 'drivers/char', 'drivers/block'],
  ...['drivers/infiniband/core', 'drivers/infiniband/sw', 'drivers/infiniband/ulp'],
  'drivers/net/*.ko',
]

const hour = 3_600_000
const execute = promisify(execFile)

/**
 * The image of this machine's user, made if it is not there: 70 MB are downloaded by apt-get. Removing the folder
 * `rdma-lab` of the cache lets the next call take a newer kernel.
 *
 * @throws KvxError `ERR_KVX_BACKEND_UNAVAILABLE`
 */
export async function image(): Promise<Image> {
  const busybox = await realpath(programPath('busybox') ?? 'busybox')
  const recipe = createHash('sha256')
    .update(JSON.stringify([always, forLink, kept]))
    .update(await readFile(busybox))
    .digest('hex')
    .slice(0, 16)
  const parent = join(cacheFolder(), 'rdma-lab')
  const place = join(parent, recipe)
  if (!existsSync(place)) {
    await inWorkFolder(parent, hour, async (work) => {
      const folder = join(work, recipe)
      await mkdir(folder)
      await build(folder, busybox)
      // Somebody else may have been faster; theirs is as good.
      await rename(folder, place).catch((error: unknown) => {
        if (!existsSync(place)) throw error
      })
    })
  }
  const [release = ''] = await readdir(join(place, 'lib/modules'))
  return {
    kernel: join(place, 'vmlinux'),
    files: join(place, 'initramfs'),
    release,
    modules: join(place, 'lib/modules', release),
  }
}

async function build(folder: string, busybox: string): Promise<void> {
  const name = await kernelPackage()
  const release = name.replace('linux-image-', '')
  const bzImage = join(folder, 'boot', `vmlinuz-${release}`)
  const modules = join(folder, 'lib/modules', release)
  try {
    await unpack(await download(name, folder), folder, [
      `./boot/vmlinuz-${release}`,
      `./lib/modules/${release}/modules.*`,
      ...kept.map((path) => `./lib/modules/${release}/kernel/${path}`),
    ])
    const compressed = compressedKernel(await readFile(bzImage))
    await writeFile(join(folder, 'vmlinux'), await unxz(compressed))
    await execute(busybox, ['depmod', '-b', folder, release])
    await writeFile(join(folder, 'initramfs'), await initramfs(modules, release, busybox))
  } catch (error) {
    throw unavailable(`The package ${name} cannot be used: ${(error as Error).message}`, error)
  }
  await rm(join(folder, 'boot'), { recursive: true })
}

/** The kernel that `linux-image-amd64` stands for at present. */
async function kernelPackage(): Promise<string> {
  const { stdout } = await execute('apt-cache', ['depends', 'linux-image-amd64']).catch(() => ({
    stdout: '',
  }))
  const name = /Depends: (linux-image-[0-9]\S+)/.exec(stdout)?.[1]
  if (name === undefined) {
    throw unavailable(
      'apt knows no package linux-image-amd64, which has the kernel of the guest (Debian). Run apt-get update; on other distributions the lab does not work.',
    )
  }
  return name
}

async function download(name: string, folder: string): Promise<string> {
  // As root apt-get would download as the user _apt, who cannot write here.
  await execute('apt-get', ['-o', 'APT::Sandbox::User=root', 'download', name], { cwd: folder })
  const file = (await readdir(folder)).find((one) => one.endsWith('.deb'))
  if (file === undefined) throw new Error('apt-get downloaded nothing')
  return join(folder, file)
}

async function unpack(archive: string, folder: string, paths: readonly string[]): Promise<void> {
  const open = spawn('dpkg-deb', ['--fsys-tarfile', archive], {
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  const patterns = ['--wildcards', '--no-wildcards-match-slash', ...paths]
  const take = spawn('tar', ['-x', '-C', folder, ...patterns], {
    stdio: [open.stdout, 'ignore', 'pipe'],
  })
  open.stdout.destroy() // tar has it now
  const problems = await said(take)
  if (problems !== undefined) throw new Error(`tar cannot unpack it: ${problems}`)
  await rm(archive)
}

async function unxz(compressed: Uint8Array): Promise<Buffer> {
  const xz = spawn('xz', ['--decompress', '--stdout'])
  const parts: Buffer[] = []
  xz.stdout.on('data', (part: Buffer) => parts.push(part))
  xz.stdin.on('error', () => undefined) // xz says why
  xz.stdin.end(compressed)
  const problems = await said(xz)
  if (problems !== undefined) throw new Error(`xz cannot unpack its kernel: ${problems}`)
  return Buffer.concat(parts)
}

/** What a program wrote to its standard error when it failed; undefined when it did not. */
async function said(child: ReturnType<typeof spawn>): Promise<string | undefined> {
  let text = ''
  child.stderr?.on('data', (part: Buffer) => (text += part.toString()))
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject).once('close', resolve)
  })
  return code === 0 ? undefined : text.trim() || `it ended with ${String(code)}`
}

async function initramfs(modules: string, release: string, busybox: string): Promise<Buffer> {
  const dependencies = await readFile(join(modules, 'modules.dep'), 'utf8')
  const needed = withNeeds(dependencies, [...always, ...forLink])
  const to = `lib/modules/${release}`
  const files: Entry[] = await Promise.all(
    needed.files.map(async (file) => ({
      path: `${to}/${file}`,
      mode: fileMode,
      content: await readFile(join(modules, file)),
    })),
  )
  const folders = new Set([
    ...['bin', 'proc', 'sys', 'dev', 'host', 'rw', 'new'],
    ...files.flatMap(({ path }) => foldersOf(path).slice(0, -1)),
  ])
  return cpio([
    ...[...folders].map((path) => ({ path, mode: folderMode })),
    { path: 'bin/busybox', mode: programMode, content: await readFile(busybox) },
    { path: 'modules', mode: fileMode, content: Buffer.from(always.join(' ')) },
    { path: 'link-modules', mode: fileMode, content: Buffer.from(forLink.join(' ')) },
    { path: `${to}/modules.dep`, mode: fileMode, content: Buffer.from(needed.modulesDep) },
    ...files,
  ])
}
