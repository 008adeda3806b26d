/** Is every kind of bad input answered with one clear sentence and a proper status or exit code? */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { patience, post, Process } from './support/cluster.ts'
import { kvx } from './support/command.ts'

const engine = ['--context-length', '64', '--max-running-requests', '2']
const serve = (mode: string, ...more: string[]) => [
  ...['serve', '--disaggregation-mode', mode, '--port', '0'],
  ...['--disaggregation-bootstrap-port', '0', ...engine, ...more],
]

let prefill: Process
let decode: Process
let otherPages: Process
let otherToken: Process
let router: Process
let otherPagesRouter: Process
let otherTokenRouter: Process
let processes: Process[] = []
let folder = ''

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kvx-bad-'))
  processes = await Promise.all([
    Process.start(serve('prefill')),
    Process.start(serve('decode')),
    Process.start(serve('decode', '--page-size', '32')),
    Process.start(serve('decode'), 'another token for tests'),
  ])
  ;[prefill, decode, otherPages, otherToken] = processes as [Process, Process, Process, Process]
  const front = ({ url }: Process) =>
    Process.start(['router', '--port', '0', '--prefill', prefill.url, '--decode', url])
  const routers = await Promise.all([decode, otherPages, otherToken].map(front))
  ;[router, otherPagesRouter, otherTokenRouter] = routers as [Process, Process, Process]
  processes.push(...routers)
}, patience)

afterAll(async () => {
  await Promise.all(processes.map((one) => one.stop()))
  await rm(folder, { recursive: true, force: true })
}, patience)

async function refusal(
  response: Response,
): Promise<{ status: number; code: string; message: string }> {
  const body = (await response.json()) as { error: { code: string; message: string; type: string } }
  expect(body.error.message).toMatch(/^\S[^\n]*\.$/)
  expect(body.error.type).toMatch(/_error$/)
  return { status: response.status, code: body.error.code, message: body.error.message }
}

test.each([
  [
    'a prompt that alone is too long',
    { prompt: Array<number>(64).fill(500), max_tokens: 1 },
    'context length is 64',
  ],
  ['an empty prompt', { prompt: '' }, 'empty'],
  ['an empty list', { prompt: [] }, 'empty'],
  ['a token that does not exist', { prompt: [49_152] }, '49152'],
  ['max_tokens of 0', { prompt: 'Hi', max_tokens: 0 }, 'max_tokens must be at least 1'],
  ['negative max_tokens', { prompt: 'Hi', max_tokens: -1 }, 'max_tokens must be at least 1'],
])(
  '%s is refused with 400, by workers and through the router, streamed or not',
  async (_, body, text) => {
    for (const { url } of [prefill, decode, router]) {
      for (const stream of [false, true]) {
        expect(await refusal(await post(url, { ...body, stream }))).toMatchObject({
          status: 400,
          code: 'ERR_KVX_INVALID_ARGUMENT',
          message: expect.stringContaining(text) as string,
        })
      }
    }
  },
)

test.each([
  ['a prompt that is too long with its answer', Array<number>(61).fill(500), 4],
  ['an answer that is too long', 'Hi', 64],
])(
  '%s is refused with 400 by decode, whose context it would fill',
  async (_, prompt, max_tokens) => {
    for (const { url } of [decode, router]) {
      for (const stream of [false, true]) {
        expect(await refusal(await post(url, { prompt, max_tokens, stream }))).toMatchObject({
          status: 400,
          code: 'ERR_KVX_INVALID_ARGUMENT',
          message: expect.stringContaining('context length of 64') as string,
        })
      }
    }
    // Prefill takes it: what it misses is the room that pairs it with decode.
    expect(await refusal(await post(prefill.url, { prompt, max_tokens }))).toMatchObject({
      message: expect.stringContaining('bootstrap_room') as string,
    })
  },
)

test('malformed JSON is refused with 400 and an unknown endpoint with 404', async () => {
  for (const { url } of [prefill, decode, router]) {
    const broken = await fetch(`${url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: '{"prompt": ',
    })
    expect(await refusal(broken)).toMatchObject({
      status: 400,
      message: expect.stringContaining('not valid JSON') as string,
    })
    expect(await refusal(await fetch(`${url}/v1/nothing`))).toMatchObject({
      status: 404,
      message: 'There is no GET /v1/nothing on this server.',
    })
  }
})

test('a prefill worker asked without a room, and a decode worker asked with half of what a router adds, say that a router is needed', async () => {
  for (const [{ url }, fields] of [
    [prefill, {}],
    [decode, { bootstrap_host: '127.0.0.1' }],
  ] as const) {
    expect(await refusal(await post(url, { prompt: 'Hi', ...fields }))).toMatchObject({
      status: 400,
      message: expect.stringContaining('bootstrap_room') as string,
    })
  }
})

test('a room that is in use is refused with 409 on either side', async () => {
  const target = { bootstrap_host: '127.0.0.1', bootstrap_port: prefill.bootstrapPort }
  // A room whose leg has failed stays known for a while, so each side has one of its own here.
  for (const [one, event, id] of [
    [prefill, 'request.received', 77],
    [decode, 'room.reserved', 78],
  ] as const) {
    const since = one.events.length
    const body = { prompt: 'Hello there', bootstrap_room: id, ...target }
    const client = new AbortController()
    const first = post(one.url, body, client.signal)
    first.catch(() => undefined)
    await one.event(({ name, room }) => name === event && room === String(id), { since })
    expect(await refusal(await post(one.url, body))).toMatchObject({
      status: 409,
      code: 'ERR_KVX_ROOM_IN_USE',
    })
    client.abort()
    await one.event(({ name, room }) => name === 'request.cancelled' && room === String(id), {
      since,
    })
  }
})

test.each([true, false])('an unreachable bootstrap is a 503 (stream: %s)', async (stream) => {
  const body = { prompt: 'Hi', stream, bootstrap_host: '127.0.0.1', bootstrap_port: 1 }
  expect(
    await refusal(await post(decode.url, { ...body, bootstrap_room: stream ? 5 : 6 })),
  ).toMatchObject({ status: 503, code: 'ERR_KVX_BOOTSTRAP_UNREACHABLE' })
})

test.each([true, false])(
  'decode with another token or page size fails through the router, and with its reason where prefill has shown the token (stream: %s)',
  async (stream) => {
    const since = otherToken.events.length
    expect(await refusal(await post(otherTokenRouter.url, { prompt: 'Hi', stream }))).toMatchObject(
      { status: 503, code: 'ERR_KVX_BOOTSTRAP_UNREACHABLE' },
    )
    const failed = await otherToken.event(({ name }) => name === 'request.failed', { since })
    expect(failed.reason).toContain('has another token')
    expect(await refusal(await post(otherPagesRouter.url, { prompt: 'Hi', stream }))).toMatchObject(
      { status: 502, code: 'ERR_KVX_PAGE_SIZE_MISMATCH' },
    )
  },
)

test('a port in use ends serve and router with one sentence', async () => {
  const port = new URL(router.url).port
  const busy = `Port ${port} of 127.0.0.1 is in use by another process: stop it, or choose another --port.`
  expect(await kvx('serve', '--port', port, ...engine)).toMatchObject({
    code: 1,
    stdout: '',
    lastWords: `kvx: ${busy}`,
  })
  expect(
    await kvx('router', '--port', port, '--prefill', prefill.url, '--decode', decode.url),
  ).toMatchObject({ code: 1, lastWords: `kvx: ${busy}` })
})

test('a bootstrap port in use ends a prefill worker with one sentence', async () => {
  const port = String(prefill.bootstrapPort)
  const result = await kvx(
    ...['serve', '--disaggregation-mode', 'prefill', '--port', '0', ...engine],
    ...['--disaggregation-bootstrap-port', port],
  )
  expect(result).toMatchObject({ code: 1, stdout: '' })
  expect(result.lastWords).toContain(port)
})

test('a model that is missing, no GGUF, or unknown is named', async () => {
  const noGguf = join(folder, 'readme.gguf')
  await writeFile(noGguf, 'This is no model.')
  for (const [name, words] of [
    [join(folder, 'none.gguf'), join(folder, 'none.gguf')],
    [noGguf, 'GGUF'],
    ['smolm2', 'smollm2'],
  ] as const) {
    const { code, lastWords } = await kvx('serve', '--port', '0', '--model', name)
    expect(code).toBe(1)
    expect(lastWords).toMatch(/^kvx: [^\n]+\.$/)
    expect(lastWords).toContain(words)
  }
})

test('an unknown backend and a misspelt option of a known one are named', async () => {
  const decodeWith = (...more: string[]) => kvx(...serve('decode'), ...more)
  const [unknown, misspelt] = await Promise.all([
    decodeWith('--transfer-backend', 'nixie'),
    decodeWith('--transfer-backend-options', 'copyThread=2'),
  ])
  expect(unknown.code).toBe(1)
  expect(unknown.lastWords).toContain(
    "There is no transfer backend 'nixie': kvx has shm, mooncake, mori, and no package",
  )
  expect(misspelt.code).toBe(1)
  expect(misspelt.lastWords).toContain('copyThread')
})

test.each([
  [['serve', '--prot', '1'], 'There is no flag --prot: did you mean --port?'],
  [['serve', '--page-size', '0'], "--page-size must be an integer from 1 to 4096, not '0'."],
  [
    ['serve', '--disaggregation-mode', 'both'],
    "--disaggregation-mode must be one of null, prefill, decode, not 'both'.",
  ],
  [
    ['router', '--prefill', 'http://127.0.0.1:1'],
    'kvx router needs at least one decode worker: --decode http://host:port.',
  ],
  [['up', '--once', ''], 'The prompt is empty: --once needs at least one character.'],
  [['up', '--json'], '--json needs --once.'],
  [
    ['up', '--once', 'x', '--max-tokens', '0'],
    "--max-tokens must be an integer from 1 to 2147483647, not '0'.",
  ],
  [['serv'], "There is no command 'serv': did you mean 'serve'?"],
  [['model', 'pul'], "There is no command 'pul': did you mean 'pull'?"],
])('kvx %j ends with exit code 2 and one sentence', async (args, sentence) => {
  expect(await kvx(...args)).toEqual({ code: 2, stdout: '', lastWords: `kvx: ${sentence}` })
})

test('every command has --help, and the version is told', async () => {
  for (const command of [
    [],
    ['up'],
    ['serve'],
    ['router'],
    ['model'],
    ['model', 'pull'],
    ['model', 'list'],
  ]) {
    const { code, stdout } = await kvx(...command, '--help')
    expect(code).toBe(0)
    expect(stdout).toContain(`USAGE ${['kvx', ...command].join(' ')}`)
    expect(stdout).not.toContain('\u001b')
  }
  expect(await kvx('--version')).toMatchObject({ code: 0, stdout: '0.1.0\n' })
})
