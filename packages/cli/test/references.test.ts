/**
 * What does a client, or a broken router, get for a reference to a transfer that is unknown, out of range, consumed,
 * stale or expired? An error of its own code, or the tokens of one process; never other tokens.
 */
import { once } from 'node:events'
import { createServer, type AddressInfo } from 'node:net'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { complete, pageGauges, patience, Process, startRouter } from './support/cluster.ts'

// Prefill has pages for one short prompt: each request uses those of the one before.
const prefillEngine = ['--context-length', '128', '--max-running-requests', '1']
const decodeEngine = ['--context-length', '128', '--max-running-requests', '4']
// Short at prefill alone: it tells decode.
const deadlines = ['--deadline', 'pairing=4000,linger=120000']
const worker = (mode: string, ...more: string[]) => [
  ...['serve', '--disaggregation-mode', mode, '--port', '0'],
  ...['--disaggregation-bootstrap-port', '0', ...more],
]

let prefill: Process
let other: Process
let decode: Process
let alone: Process
let router: Process
let processes: Process[] = []
let atRest: Record<string, number>[] = []

beforeAll(async () => {
  processes = await Promise.all([
    Process.start(worker('prefill', ...prefillEngine, ...deadlines)),
    Process.start(worker('prefill', ...prefillEngine, ...deadlines)),
    Process.start(worker('decode', ...decodeEngine)),
    Process.start(worker('null', ...decodeEngine)),
  ])
  ;[prefill, other, decode, alone] = processes as [Process, Process, Process, Process]
  router = await startRouter(prefill, decode)
  processes.push(router)
  atRest = await Promise.all([prefill, other, decode].map(pageGauges))
}, patience)

afterAll(async () => {
  await Promise.all(processes.map((one) => one.stop()))
}, patience)

const promptA = Array.from({ length: 100 }, (_, i) => 400 + i * 7)
const promptB = Array.from({ length: 100 }, (_, i) => 9_000 + i * 11)
const sampling = { max_tokens: 8, temperature: 0, return_token_ids: true }

interface Outcome {
  readonly status: number
  readonly tokens?: readonly number[] | undefined
  readonly code?: string | undefined
  readonly phase?: string | null | undefined
}

/** Sends one leg as a router would; `fields` may be whatever a router should not send. */
async function leg(to: Process, prompt: number[], fields: object): Promise<Outcome> {
  const response = await fetch(`${to.url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ ...sampling, prompt, ...fields }),
  })
  const { status } = response
  const body = (await response.json()) as {
    choices?: { token_ids: number[] }[]
    error?: { code: string; phase: string | null }
  }
  return {
    status,
    tokens: body.choices?.[0]?.token_ids,
    code: body.error?.code,
    phase: body.error?.phase,
  }
}

const decodeLeg = (room: number, prompt = promptA, fields: object = {}) =>
  leg(decode, prompt, {
    bootstrap_host: '127.0.0.1',
    bootstrap_port: prefill.bootstrapPort,
    bootstrap_room: room,
    ...fields,
  })
const prefillLeg = (room: number, prompt = promptA, to = prefill) =>
  leg(to, prompt, { bootstrap_room: room })

/** Both legs of a room, which must have the tokens of one process. */
async function expectWhole(room: number, prompt: number[]): Promise<void> {
  const [answer, sent] = await Promise.all([decodeLeg(room, prompt), prefillLeg(room, prompt)])
  expect(sent).toMatchObject({ status: 200 })
  expect(answer).toMatchObject({ status: 200, tokens: await reference(prompt) })
}

/**
 * Like `expectWhole`, for a room whose last attempt failed at prefill: decode is told that cause at once, until a
 * new prefill leg clears it. So that leg must be there first.
 */
async function expectAnew(room: number, prompt: number[]): Promise<void> {
  const since = prefill.events.length
  const again = prefillLeg(room, prompt)
  await prefill.event(({ name, room: of }) => name === 'room.opened' && of === String(room), {
    since,
  })
  const answer = await decodeLeg(room, prompt)
  expect(await again).toMatchObject({ status: 200 })
  expect(answer).toMatchObject({ status: 200, tokens: await reference(prompt) })
}

async function reference(prompt: number[]): Promise<readonly number[]> {
  return (await complete(alone.url, { ...sampling, prompt, stream: false })).tokens
}

/** A prefill leg for which decode did not come, which has sent its headers, or whoever asks for such a one afterwards. */
const expired = { code: 'ERR_KVX_TIMEOUT', phase: 'reserve', tokens: undefined }
const parked = { phase: 'parked', tokens: undefined }
const unknown = { ...parked, status: 504, code: 'ERR_KVX_ROOM_UNKNOWN' }
const consumed = { ...parked, status: 410, code: 'ERR_KVX_ROOM_CONSUMED' }

test('an unknown room ends in an error that says so, and a stream of it in the error alone', async () => {
  const stream = fetch(`${decode.url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({
      ...sampling,
      prompt: promptA,
      stream: true,
      bootstrap_host: '127.0.0.1',
      bootstrap_port: prefill.bootstrapPort,
      bootstrap_room: 3,
    }),
  })
  const [received, sent, streamed] = await Promise.all([
    decodeLeg(1),
    prefillLeg(2),
    stream.then(untilCut),
  ])
  expect(received).toMatchObject(unknown)
  expect(sent).toMatchObject(expired)
  expect(streamed).toMatch(/^data: \{"error":.*"code":"ERR_KVX_ROOM_UNKNOWN".*\}\n\n$/)
})

test('prefill sends its headers before decode has come, so that a router that waits for both legs is free when decode is dead', async () => {
  const response = await fetch(`${prefill.url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ ...sampling, prompt: promptA, bootstrap_room: 4 }),
  })
  expect(response.status).toBe(200)
  // Its headers have been read; now decode comes.
  const [answer, sent] = await Promise.all([decodeLeg(4), response.json()])
  expect(answer).toMatchObject({ status: 200, tokens: await reference(promptA) })
  expect(sent).toMatchObject({ kvx: { transfer: { backend: 'shm' } } })
})

/** The text of a response whose connection is cut at the end. */
async function untilCut(response: Response): Promise<string> {
  let text = ''
  const decoder = new TextDecoder()
  try {
    for await (const chunk of response.body ?? []) text += decoder.decode(chunk as Uint8Array)
  } catch {
    return text
  }
  throw new Error(`the connection was not cut after: ${text}`)
}

test.each(['-1', '9223372036854775808', '18446744073709551616', '1.5', '"7"', '[1,2]', 'true'])(
  'the room %s is out of range or no room, and refused at once by both workers',
  async (room) => {
    for (const to of [prefill, decode]) {
      const response = await fetch(`${to.url}/v1/completions`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: `{"prompt":[5,6,7],"bootstrap_host":"127.0.0.1","bootstrap_port":1,"bootstrap_room":${room}}`,
      })
      expect(response.status).toBe(400)
      expect(await response.json()).toMatchObject({ error: { code: 'ERR_KVX_INVALID_ARGUMENT' } })
    }
  },
)

test('no client can name pages: those of another system change nothing', async () => {
  const foreign = {
    kv_transfer_params: {
      do_remote_prefill: true,
      remote_engine_id: 'nobody',
      remote_request_id: 'nothing',
      remote_block_ids: [0, 1, 2, 99_999_999, -5],
      remote_host: '127.0.0.1',
      remote_port: 1,
    },
  }
  const refused = { status: 400, code: 'ERR_KVX_INVALID_ARGUMENT', tokens: undefined }
  expect(await decodeLeg(10, promptA, foreign)).toMatchObject(refused)
  expect(await leg(router, promptA, foreign)).toMatchObject(refused)
  await expectWhole(10, promptA)
})

test('a room that has been consumed is told as such when decode alone uses it again', async () => {
  await expectWhole(20, promptA)
  expect(await decodeLeg(20)).toMatchObject(consumed)
})

test('a consumed room that both legs use again gives the answer of the new prompt', async () => {
  await expectWhole(21, promptA)
  await expectWhole(21, promptB)
  await expectWhole(21, promptA)
})

test('of two decode legs of one room at once, one is refused', async () => {
  const answers = await Promise.all([decodeLeg(22), decodeLeg(22), prefillLeg(22)])
  const [first, second] = answers
  const refused = first.status === 200 ? second : first
  const served = first.status === 200 ? first : second
  expect(refused).toMatchObject({ status: 409, code: 'ERR_KVX_ROOM_IN_USE' })
  expect(served).toMatchObject({ status: 200, tokens: await reference(promptA) })
})

test('a stale room, whose pages prefill has used for another prompt since, never gives the earlier answer', async () => {
  await expectWhole(30, promptA)
  await expectWhole(31, promptB)
  // Nobody sends it: not what lies in the pages now, and not what lay in them.
  expect(await decodeLeg(30, promptB)).toMatchObject(consumed)
  // One side goes on with the old prompt, the other has a new one.
  const [answer, sent] = await Promise.all([decodeLeg(30, promptA), prefillLeg(30, promptB)])
  const mismatch = { code: 'ERR_KVX_PROMPT_MISMATCH', tokens: undefined }
  expect(answer).toMatchObject({ ...mismatch, status: 409 })
  expect(sent).toMatchObject(mismatch)
  await expectAnew(30, promptB)
})

test('a room whose leg has expired on one side is refused on the other, and can be used anew', async () => {
  const [sent, received] = await Promise.all([prefillLeg(40), decodeLeg(41)])
  expect(sent).toMatchObject(expired)
  expect(received).toMatchObject(unknown)
  // Decode learns the cause of prefill; nothing pairs with what is over.
  const [late, lateToo] = await Promise.all([decodeLeg(40), prefillLeg(41)])
  expect(late).toMatchObject({ ...expired, status: 504 })
  expect(lateToo).toMatchObject(expired)
  await expectAnew(40, promptB)
})

test('a decode leg that is pointed at another instance gets nothing of the right one', async () => {
  const elsewhere = { bootstrap_port: other.bootstrapPort }
  const [answer, sent] = await Promise.all([decodeLeg(50, promptA, elsewhere), prefillLeg(50)])
  expect(answer).toMatchObject(unknown)
  expect(sent).toMatchObject(expired)
})

test('a decode leg that is pointed at no instance, or at another service, gets one answer, and the log says which', async () => {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  // Something listens at the other one, but it is the worker's HTTP port, which cannot show the token.
  const http = Number(new URL(prefill.url).port)
  for (const [room, bootstrap_port, reason] of [
    [51, port, 'Nothing answers'],
    [52, http, 'is no kvx service'],
  ] as const) {
    expect(await decodeLeg(room, promptA, { bootstrap_port })).toMatchObject({
      status: 503,
      code: 'ERR_KVX_BOOTSTRAP_UNREACHABLE',
      phase: 'bootstrap',
    })
    const failed = await decode.event((event) => {
      return event.name === 'request.failed' && event.room === String(room)
    })
    expect(failed.reason).toContain(reason)
  }
})

test('rooms that clients give to the router pair nobody: it draws its own', async () => {
  const fields = { bootstrap_host: '192.0.2.1', bootstrap_port: 9, bootstrap_room: 20 }
  const [one, two] = await Promise.all([leg(router, promptA, fields), leg(router, promptB, fields)])
  expect(one).toMatchObject({ status: 200, tokens: await reference(promptA) })
  expect(two).toMatchObject({ status: 200, tokens: await reference(promptB) })
})

test('after all that, every page is back', async () => {
  for (const one of [prefill, other, decode]) {
    for (const { request } of one.events.filter(({ name }) => name === 'pages.leased')) {
      await one.event((event) => event.name === 'pages.released' && event.request === request)
    }
  }
  expect(await Promise.all([prefill, other, decode].map(pageGauges))).toEqual(atRest)
})
