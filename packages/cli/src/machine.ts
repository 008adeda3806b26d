/** What a machine offers to transfer engines, read from the system without changing it. */
import { execFile } from 'node:child_process'
import { readdir, readFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { promisify } from 'node:util'

export interface Fact {
  readonly name: string
  /** Whether nothing need be done about it. */
  readonly good: boolean
  readonly value: string
  /** What to do, when it is not good. */
  readonly advice?: string | undefined
}

export async function examineMachine(): Promise<Fact[]> {
  return Promise.all([
    memlock(),
    rdmaDevices(),
    port(30_000, 'server'),
    port(8_998, 'bootstrap'),
    hugePages(),
    tool(
      'pip',
      'python3',
      ['-m', 'pip', '--version'],
      'apt install python3-pip',
      'fetches the libraries of mori and mooncake, and the model',
    ),
    tool(
      'compiler',
      process.env.CXX ?? 'c++',
      ['--version'],
      'apt install g++ make',
      'builds the addons',
    ),
  ])
}

/** RDMA pins what it registers, and counts it against this limit. */
async function memlock(): Promise<Fact> {
  const limits = await readFile('/proc/self/limits', 'utf8').catch(() => '')
  const limit = /^Max locked memory\s+(\S+)/m.exec(limits)?.[1]
  if (limit === undefined) return { name: 'memlock', good: true, value: 'not known on this system' }
  if (limit === 'unlimited') return { name: 'memlock', good: true, value: 'unlimited' }
  return {
    name: 'memlock',
    good: false,
    value: `${String(Math.floor(Number(limit) / 2 ** 20))} MiB`,
    advice:
      'RDMA needs to lock whole pools: ulimit -l unlimited, or memlock in /etc/security/limits.conf. shm and mooncake over TCP do not mind.',
  }
}

async function rdmaDevices(): Promise<Fact> {
  const devices = await readdir('/sys/class/infiniband').catch(() => [])
  return devices.length > 0
    ? { name: 'RDMA devices', good: true, value: devices.join(', ') }
    : {
        name: 'RDMA devices',
        good: false,
        value: 'none',
        advice:
          'mori, and mooncake with protocol=rdma, need one; shm and mooncake over TCP do not.',
      }
}

async function port(number: number, what: string): Promise<Fact> {
  const server = createServer()
  const error = await new Promise<NodeJS.ErrnoException | undefined>((resolve) => {
    server.once('error', resolve)
    server.listen(number, '127.0.0.1', () => {
      resolve(undefined)
    })
  })
  await new Promise<void>((resolve) => {
    if (error === undefined)
      server.close(() => {
        resolve()
      })
    else resolve()
  })
  const name = `port ${String(number)}`
  return error === undefined
    ? { name, good: true, value: `free (default of the ${what})` }
    : {
        name,
        good: false,
        value: error.code ?? error.message,
        advice: `Choose another port for the ${what}, or 0 for any free one.`,
      }
}

async function hugePages(): Promise<Fact> {
  const shmem = await readFile('/sys/kernel/mm/transparent_hugepage/shmem_enabled', 'utf8').catch(
    () => '',
  )
  const chosen = /\[(\w+)\]/.exec(shmem)?.[1] ?? 'not known'
  const pool =
    /^HugePages_Total:\s+(\d+)/m.exec(
      await readFile('/proc/meminfo', 'utf8').catch(() => ''),
    )?.[1] ?? '0'
  const good = !['never', 'deny', 'not known'].includes(chosen) || pool !== '0'
  return {
    name: 'huge pages',
    good,
    value: `shared memory: ${chosen}; reserved: ${pool}`,
    advice: good
      ? undefined
      : 'Copies through shared memory are faster with them: echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled',
  }
}

async function tool(
  name: string,
  command: string,
  args: string[],
  how: string,
  why: string,
): Promise<Fact> {
  try {
    const { stdout } = await promisify(execFile)(command, args, { timeout: 10_000 })
    return { name, good: true, value: (stdout.split('\n')[0] ?? '').replace(/ from .*/, '') }
  } catch {
    return { name, good: false, value: 'missing', advice: `It ${why} (Debian: ${how}).` }
  }
}
