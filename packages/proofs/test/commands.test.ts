import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { expect, test } from 'vitest'

test.each([
  ['bytes/main.js', '--cases', '3'],
  ['fuzz/main.js', '--frames', '10', '--sockets', '0'],
  ['mutants/main.js', '--help'],
  ['chaos/main.js', '--help'],
  ['chaos/partition-main.js', '--help'],
  ['soak/main.js', '--help'],
])(
  '%s %s ends as it would have when its reader goes away, as `head` does',
  async (program, ...args) => {
    const path = join(import.meta.dirname, '../dist', program)
    const child = spawn(process.execPath, [path, ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
    child.stdout.destroy()
    let told = ''
    child.stderr.on('data', (data: Buffer) => (told += data.toString()))
    const [code] = (await once(child, 'close')) as [number | null]
    expect(told).not.toContain('EPIPE')
    expect(code).toBe(0)
  },
)
