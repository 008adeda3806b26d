/** Does any secret ever leave its process, except through the environment of its children? */
import { readdirSync, readFileSync } from 'node:fs'
import { afterAll, expect, test, vi } from 'vitest'
import { BootstrapServer, readInstance, registerRank } from '@kvx/core'
import { silentLog } from '@kvx/contract'
import { ControlClient, ControlServer, deploymentKeys } from '../../core/src/control/index.ts'
import { complete, patience, post, withKey } from './support/cluster.ts'
import { startUp } from './support/up.ts'

const cleanups: (() => unknown)[] = []
afterAll(async () => {
  for (const clean of cleanups.reverse()) await clean()
})

/** Process ids of a process and all below it. */
function family(pid: number): number[] {
  const children = readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((name) => parentOf(name) === pid)
  return [pid, ...children.flatMap((child) => family(Number(child)))]
}

function parentOf(pid: string): number | undefined {
  try {
    // After the name, which stands in brackets and may hold anything: the state, and the parent.
    return Number(readFileSync(`/proc/${pid}/stat`, 'latin1').split(') ').at(-1)?.split(' ')[1])
  } catch {
    return undefined
  }
}

const commandLine = (pid: number) => readFileSync(`/proc/${String(pid)}/cmdline`, 'latin1')

function variable(pid: number, name: string): string {
  const entries = readFileSync(`/proc/${String(pid)}/environ`, 'utf8').split('\0')
  return entries.find((entry) => entry.startsWith(`${name}=`))?.slice(name.length + 1) ?? ''
}

/** A secret in the forms in which somebody might have written it. */
const forms = (secret: string) => [
  secret,
  Buffer.from(secret).toString('base64').replaceAll('=', ''),
  Buffer.from(secret).toString('hex'),
  ...(/^[0-9a-f]+$/.test(secret) ? [Buffer.from(secret, 'hex').toString('base64')] : []),
]

/** A prefill rank that holds the token and refuses; what decode told it of its session. */
async function sessionOf(ask: (port: number) => Promise<unknown>, token: string, honest: string) {
  const { ranks } = await readInstance({ bootstrap: honest, token, timeoutMs: patience })
  const rank = ranks[0]
  if (rank === undefined) throw new Error('no rank is registered')
  const where = { host: '127.0.0.1', port: 0, token, log: silentLog }
  let session = ''
  const control = await ControlServer.bind({
    ...where,
    onMessage: (connection, message) => {
      if (message.k !== 'hello') return
      session = String(message.session)
      const { from: to, gen } = message
      const refusal = { k: 'refuse', code: 'ERR_KVX_SESSION_MISMATCH', text: 'not this one' }
      connection.send({ v: message.v, from: incarnation, to, gen, ...refusal })
    },
  })
  const bootstrap = await BootstrapServer.open(where)
  const incarnation = 'a'.repeat(32)
  const record = { ...rank, instance: 'refuses', incarnation, endpoint: control.endpoint }
  const registration = await registerRank({ bootstrap: bootstrap.address, token, record })
  await ask(bootstrap.port)
  await registration.close()
  await bootstrap.close()
  await control.close()
  return session
}

test(
  'no secret is in logs, metrics, answers, errors or command lines',
  async () => {
    const apiKey = 'a-key-that-nobody-may-read'
    vi.stubEnv('KVX_API_KEY', apiKey)
    cleanups.push(() => vi.unstubAllEnvs())
    const {
      up,
      url,
      workers,
      said: lines,
      greeting,
    } = await startUp(
      ...['--log-level', 'trace', '--context-length', '600', '--max-running-requests', '2'],
    )
    cleanups.push(() => up.kill('SIGKILL'))
    const [prefill, decode] = ['prefill', 'decode'].map(
      (role) => [...workers].find(([name]) => name.startsWith(role))?.[1],
    )
    if (prefill === undefined || decode === undefined) throw new Error('a worker is missing')
    const token = variable(prefill.pid, 'KVX_TOKEN')
    expect(token).toMatch(/^[0-9a-f]{64}$/)

    // What goes well, and what does not.
    const prompt = 'The capital of France is'
    for (const stream of [false, true]) await complete(url, { prompt, max_tokens: 4, stream })
    const answers: string[] = []
    const fails = async (at: string, body: object) => {
      const response = await post(at, body)
      expect(response.ok).toBe(false)
      answers.push(await response.text(), JSON.stringify([...response.headers]))
    }
    const info = (await (
      await fetch(`${prefill.url}/server_info`, { headers: withKey() })
    ).json()) as Record<string, unknown>
    const bootstrapPort = Number(info.bootstrap_port)
    const leg = { prompt, max_tokens: 4, bootstrap_host: '127.0.0.1', bootstrap_room: 1 }
    await fails(url, { prompt: 'x '.repeat(2_000), max_tokens: 4 })
    await fails(url, { prompt, max_tokens: -1 })
    await fails(decode.url, { ...leg, bootstrap_port: 1 })
    const session = await sessionOf(
      (port) => fails(decode.url, { ...leg, bootstrap_port: port }),
      token,
      `tcp://127.0.0.1:${String(bootstrapPort)}`,
    )
    expect(session).toMatch(/^[0-9a-f]{32}$/)
    // A stranger, of whom the log tells.
    await new Promise<void>((resolve) => {
      const stranger = ControlClient.connect({
        endpoint: `tcp://127.0.0.1:${String(bootstrapPort)}`,
        token: 'another token for tests',
        log: silentLog,
        onUp: resolve,
        onDown: () => {
          resolve()
        },
        onMessage: () => undefined,
      })
      cleanups.push(() => {
        stranger.close()
      })
    })
    for (const worker of [url, prefill.url, decode.url]) {
      for (const path of ['/metrics', '/server_info', '/health', '/v1/models', '/no-such-path']) {
        for (const headers of [withKey(), { authorization: `Bearer ${apiKey}x` }]) {
          const response = await fetch(worker + path, { headers })
          answers.push(await response.text(), JSON.stringify([...response.headers]))
        }
      }
    }
    const pids = family(Number(up.pid))
    expect(pids.length).toBeGreaterThanOrEqual(4)
    const commands = pids.map(commandLine)

    up.kill('SIGINT')
    await new Promise((resolve) => up.once('close', resolve))
    const said = [greeting, ...lines].join('\n')
    // It was heard at all, at this level, and about these requests.
    expect(said).toContain('"room.')
    expect(answers.join()).toContain('ERR_KVX_SESSION_MISMATCH')

    const keys = deploymentKeys(token)
    const secrets = { token, session, apiKey, ...keyTexts(keys) }
    for (const [name, secret] of Object.entries(secrets)) {
      for (const form of forms(secret)) {
        expect(said.includes(form), `${name} in the log`).toBe(false)
        expect(answers.join('\n').includes(form), `${name} in an answer`).toBe(false)
        expect(commands.join('\n').includes(form), `${name} in a command line`).toBe(false)
      }
    }
  },
  2 * patience,
)

function keyTexts({ server, client }: ReturnType<typeof deploymentKeys>) {
  return { serverKey: server.secretKey, clientKey: client.secretKey, publicKey: server.publicKey }
}
