/** What can a prefill rank do to a decode worker by what it says of its answer? */
import { afterAll, expect, test } from 'vitest'
import { BootstrapServer, readInstance, registerRank } from '@kvx/core'
import { silentLog } from '@kvx/contract'
import { ControlServer, type Message } from '../../core/src/control/index.ts'
import { unpackPlace, type PackedPlace, type Place } from '../../core/src/place/index.ts'
import { complete, patience, post, Process } from './support/cluster.ts'

const token = 'a token for tests'
const cleanups: (() => unknown)[] = []
afterAll(async () => {
  for (const clean of cleanups.reverse()) await clean()
})

const worker = async (mode: string, ...flags: string[]) => {
  const started = await Process.start(
    [
      ...['serve', '--disaggregation-mode', mode, '--port', '0'],
      ...['--context-length', '600', '--max-running-requests', '1', ...flags],
    ],
    token,
  )
  cleanups.push(() => started.stop())
  return started
}

/** A prefill rank that sends no bytes, says that it has sent all, and gives `firstToken`. */
async function liar(like: string, firstToken: number): Promise<number> {
  const { ranks } = await readInstance({ bootstrap: like, token, timeoutMs: patience })
  const [rank] = ranks
  if (rank === undefined) throw new Error('no rank is registered')
  const where = { host: '127.0.0.1', port: 0, token, log: silentLog }
  const incarnation = 'b'.repeat(32)
  let layers = 0
  let place: Place | undefined
  const answers = (message: Message): Record<string, unknown>[] => {
    switch (message.k) {
      case 'hello': {
        const { shape, place: packed, engine } = message
        ;({ layers } = shape as { layers: number })
        place = unpackPlace(packed as PackedPlace)
        const limits = { parked: 8, auxBytes: 1_000 }
        const self = { writer: 'c'.repeat(32), instance: 'liar', rank: rank.rank }
        return [{ k: 'welcome', ...self, shape, place: packed, engine, limits }]
      }
      case 'reserve': {
        const { ep, tokens } = message
        const pages = Math.ceil(Number(tokens) / (place?.components.kv?.pageTokens ?? 1))
        const bytes = (place?.tensors ?? []).reduce(
          (sum, { pageBytes }) => sum + pages * pageBytes,
          0,
        )
        const parts = { kv: { units: Number(tokens) * layers, bytes } }
        const manifest = { parts, chunks: 1, ms: 1 }
        return [
          { k: 'accept', ep, state: 'paired' },
          { k: 'complete', ep, manifest, aux: { firstToken } },
        ]
      }
      case 'abort':
        return [{ k: 'drained', ep: message.ep }]
      default:
        return []
    }
  }
  const control = await ControlServer.bind({
    ...where,
    onMessage: (connection, message) => {
      for (const answer of answers(message)) {
        connection.send({ v: 2, from: incarnation, to: message.from, gen: message.gen, ...answer })
      }
    },
  })
  const bootstrap = await BootstrapServer.open(where)
  const record = { ...rank, instance: 'liar', incarnation, endpoint: control.endpoint }
  const registration = await registerRank({ bootstrap: bootstrap.address, token, record })
  cleanups.push(async () => {
    await registration.close()
    await bootstrap.close()
    await control.close()
  })
  return bootstrap.port
}

test(
  'a first token that the model does not have ends the request, and not the worker',
  async () => {
    const prefill = await worker('prefill', '--disaggregation-bootstrap-port', '0')
    const decode = await worker('decode')
    const from = (port: number, room: number) => ({
      bootstrap_host: '127.0.0.1',
      bootstrap_port: port,
      bootstrap_room: room,
    })
    const prompt = 'The capital of France is'
    const port = await liar(`tcp://127.0.0.1:${String(prefill.bootstrapPort)}`, 2 ** 31 - 1)
    const response = await post(decode.url, { prompt, max_tokens: 4, ...from(port, 1) })
    expect(response.ok).toBe(false)
    expect(await response.text()).toContain('ERR_KVX_PROTOCOL')
    const honest = {
      ...{ prompt, max_tokens: 4, temperature: 0, stream: false },
      ...from(prefill.bootstrapPort, 2),
    }
    const [, answer] = await Promise.all([
      post(prefill.url, honest).then((sent) => sent.text()),
      complete(decode.url, honest),
    ])
    expect(answer.text).toContain('Paris')
  },
  2 * patience,
)
