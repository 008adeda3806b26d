/** Can a command be ended in whatever state it is, and does nothing of it outlive it, or end before it? */
import { spawn, type ChildProcess } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { complete, patience } from './support/cluster.ts'
import { command } from './support/command.ts'
import { startUp } from './support/up.ts'

const small = ['--context-length', '64', '--max-running-requests', '1']

let folder = ''
let mark = ''
const running = new Set<ChildProcess>()
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kvx-ending-'))
  mark = randomBytes(8).toString('hex')
})
afterEach(async () => {
  for (const child of running) child.kill('SIGKILL')
  running.clear()
  await rm(folder, { recursive: true })
})

function start(args: readonly string[], env: Record<string, string> = {}): ChildProcess {
  const child = spawn(process.execPath, [command, ...args], {
    env: { ...process.env, ...env, KVX_TEST_MARK: mark },
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  running.add(child)
  return child
}

/** Resolves once it says so on stderr. */
async function says(child: ChildProcess, pattern: RegExp): Promise<void> {
  if (child.stderr === null) return
  for await (const line of createInterface({ input: child.stderr })) {
    if (pattern.test(line)) return
  }
  throw new Error(`it ended without saying ${String(pattern)}`)
}

/** Processes of this test, by what stands in their environment. */
async function left(): Promise<string[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name))
  const marked = pids.map(async (pid) => {
    const environment = await readFile(`/proc/${pid}/environ`, 'latin1').catch(() => '')
    return environment.includes(`KVX_TEST_MARK=${mark}`) ? [pid] : []
  })
  return (await Promise.all(marked)).flat()
}

/** A machine whose python3, when it is asked to download, never answers. */
async function withoutAnswer(): Promise<Record<string, string>> {
  const started = join(folder, 'started')
  const script = `#!/bin/sh\ncase "$*" in *download*) echo $$ > ${started}; exec sleep 600;; esac\nexit 1\n`
  await writeFile(join(folder, 'python3'), script, { mode: 0o755 })
  return { PATH: `${folder}:${process.env.PATH ?? ''}`, KVX_CACHE: join(folder, 'cache') }
}

const commands: [string, string[], number][] = [
  ['serve', ['serve', '--port', '0'], 0],
  ['up', ['up', '--port', '0'], 0],
  ['up --once', ['up', '--once', 'Hi'], 0],
  ['model pull', ['model', 'pull', 'smollm2'], 143],
  ['backend install', ['backend', 'install', 'mori'], 143],
]

test.each(
  commands.flatMap(([name, args, terminated]) => [
    [name, 'SIGINT' as const, 130, args] as const,
    [name, 'SIGTERM' as const, terminated, args] as const,
  ]),
)(
  'kvx %s that is downloading ends with %s, with exit code %i, and leaves no process and no file',
  async (_name, signal, code, args) => {
    const child = start(args, await withoutAnswer())
    await expect
      .poll(() => readFile(join(folder, 'started'), 'utf8').catch(() => ''), { timeout: patience })
      .not.toBe('')
    child.kill(signal)
    expect(await once(child, 'exit')).toEqual([code, null])
    await expect.poll(left, { timeout: patience }).toEqual([])
    const files = await readdir(join(folder, 'cache'), { recursive: true })
    expect(files.filter((file) => /\.(partial|pull)-/.test(file))).toEqual([])
  },
)

test.each([
  ['SIGINT', [130, null]],
  ['SIGTERM', [0, null]],
  ['SIGKILL', [null, 'SIGKILL']],
] as const)(
  'up whose children have only just been started takes them along with %s',
  async (signal, how) => {
    const child = start(['up', '--port', '0', ...small])
    await says(child, /^starting prefill and decode workers$/)
    child.kill(signal)
    expect(await once(child, 'exit')).toEqual(how)
    await expect.poll(left, { timeout: patience }).toEqual([])
  },
)

test('a second Ctrl-C ends up at once, with all that it has started', async () => {
  const child = start(['up', '--port', '0', ...small])
  await says(child, /^starting prefill and decode workers$/)
  child.kill('SIGINT')
  child.kill('SIGINT')
  expect(await once(child, 'exit')).toEqual([130, null])
  await expect.poll(left, { timeout: patience }).toEqual([])
})

test('readers of stdout and stderr that go away end neither up nor a worker', async () => {
  const { up, url, workers } = await startUp(...small, '--log-level', 'debug')
  running.add(up)
  up.stdout.destroy()
  up.stderr.destroy()
  const question = {
    prompt: 'The capital of France is',
    max_tokens: 3,
    temperature: 0,
    stream: false,
  }
  for (let i = 0; i < 3; i++) expect((await complete(url, question)).text).toContain('Paris')
  for (const worker of workers.values()) {
    const info = (await (await fetch(`${worker.url}/server_info`)).json()) as { pid: number }
    expect(info.pid).toBe(worker.pid)
  }
  up.kill('SIGINT')
  expect(await once(up, 'exit')).toEqual([130, null])
})

test('readers of stdout and stderr that go away do not end a single worker', async () => {
  const worker = spawn(process.execPath, [command, 'serve', '--port', '0', ...small], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  running.add(worker)
  const [line] = (await once(createInterface({ input: worker.stdout }), 'line')) as [string]
  worker.stdout.destroy()
  worker.stderr.destroy()
  const url = /http:\S+/.exec(line)?.[0] ?? ''
  for (let i = 0; i < 2; i++) {
    await expect(
      complete(url, { prompt: 'Hi', max_tokens: 2, stream: false }),
    ).resolves.toMatchObject({ status: 200 })
  }
  worker.kill('SIGTERM')
  expect(await once(worker, 'exit')).toEqual([0, null])
})
