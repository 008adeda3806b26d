/** `kvx up` on free ports, and everything it started, by its own word. */
import { spawn } from 'node:child_process'
import { EventEmitter, once } from 'node:events'
import { createInterface } from 'node:readline'
import { patience } from './cluster.ts'
import { command } from './command.ts'

export async function startUp(...flags: readonly string[]) {
  const up = spawn(process.execPath, [command, 'up', '--port', '0', ...flags], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const workers = new Map<string, { url: string; pid: number }>()
  const said: string[] = []
  const heard = new EventEmitter().setMaxListeners(0)
  createInterface({ input: up.stderr }).on('line', (line) => {
    said.push(line)
    heard.emit('line')
    if (!line.startsWith('{')) return
    const { msg, instance, url, pid } = JSON.parse(line) as Record<string, string>
    if (msg === 'worker is ready' && instance !== undefined && url !== undefined) {
      workers.set(instance, { url, pid: Number(pid) })
    }
  })
  const lines: string[] = []
  for await (const line of createInterface({ input: up.stdout })) {
    lines.push(line)
    if (line === 'Ctrl-C ends it.') break
  }
  const url = /^kvx ready at (\S+)$/.exec(lines[0] ?? '')?.[1]
  if (url === undefined) throw new Error(`kvx up did not start:\n${said.join('\n')}`)
  /** The first line of stderr, past or future, that fits. */
  const says = async (pattern: RegExp): Promise<string> => {
    const signal = AbortSignal.timeout(patience)
    for (let i = 0; ; i++) {
      while (i >= said.length) await once(heard, 'line', { signal })
      const line = said[i] ?? ''
      if (pattern.test(line)) return line
    }
  }
  return { up, url, workers, said, says, greeting: lines.join('\n') }
}
