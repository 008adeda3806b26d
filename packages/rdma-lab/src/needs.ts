/** What the lab wants of a machine, and how to get it. */
import { accessSync, constants, readFileSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { isStatic } from './image/kernel.ts'

/** Programs and the Debian packages that have them. */
const programs = {
  'qemu-system-x86_64': 'qemu-system-x86',
  busybox: 'busybox-static',
  xz: 'xz-utils',
  rdma: 'iproute2',
  tar: 'tar',
} as const

/** Tells libibverbs which of its drivers serves soft-RoCE. */
const rxeDriver = '/etc/libibverbs.d/rxe.driver'

/** Where a program is, or undefined. The folders for administrators are looked into even if they are not on the PATH. */
export function programPath(
  name: string,
  path: string | undefined = process.env.PATH,
): string | undefined {
  const folders = [...(path ?? '').split(delimiter), '/usr/sbin', '/sbin']
  return folders
    .filter((folder) => folder !== '')
    .map((folder) => join(folder, name))
    .find(isExecutable)
}

function isExecutable(file: string): boolean {
  try {
    accessSync(file, constants.X_OK)
    return true
  } catch {
    return false
  }
}

/** Why the lab cannot run on this machine, with what to do about it; undefined when it can. */
export function whyNot(env: NodeJS.ProcessEnv = process.env): string | undefined {
  if (process.platform !== 'linux' || process.arch !== 'x64')
    return `The lab emulates an x86-64 machine on its own files: it needs Linux on x86-64, and this is ${process.platform} on ${process.arch}.`
  if (programPath('apt-get', env.PATH) === undefined)
    return 'The lab takes its kernel from a Debian package and finds it by apt-get, which this machine does not have.'
  const missing: string[] = Object.entries(programs)
    .filter(([name]) => programPath(name, env.PATH) === undefined)
    .map(([, debian]) => debian)
  const busybox = programPath('busybox', env.PATH)
  if (busybox !== undefined && !isStatic(readFileSync(busybox))) missing.push('busybox-static')
  try {
    accessSync(rxeDriver)
  } catch {
    missing.push('ibverbs-providers')
  }
  if (missing.length === 0) return undefined
  return `The lab lacks ${missing.join(', ')}. Install what is missing: apt-get install --no-install-recommends ${missing.join(' ')}`
}
